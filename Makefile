# Each target is one script or one cargo command. `make demo` and `make test` need only Rust; they install the rest.
.PHONY: help demo stop serve test lint bench fuzz clean-demo

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

demo: ## install, build, serve the demo package set, pull shell/git/htop and run git in it
	@scripts/demo

stop: ## stop the registry that `make demo` started
	@scripts/demo stop

serve: ## serve nixpkgs (NIXERY_CHANNEL) on port 8080; needs Nix and the network
	@scripts/serve

test: ## install what the tests need and run all of them
	@scripts/test

lint: ## check formatting, clippy, rustdoc, shell scripts, the crate graph, deploy/
	@scripts/lint

bench: ## install what the benchmarks need and run all of them: about ten minutes on an idle machine
	@scripts/bench

fuzz: ## run every fuzz target for FUZZ_SECONDS seconds (default 30)
	@scripts/fuzz

clean-demo: stop ## stop it and remove everything below target/demo
	@scripts/demo clean
