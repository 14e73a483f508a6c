# Each target is one script or one cargo command; `make demo` and `make test` need nothing installed but Rust.
.PHONY: help demo stop serve test lint bench fuzz clean-demo

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

demo: ## install, build, serve the demo package set, pull shell/git/htop and run git in it
	@scripts/demo

stop: ## stop the registry that `make demo` left running
	@scripts/demo stop

serve: ## serve nixpkgs (NIXERY_CHANNEL) on port 8080; needs Nix and the network
	@scripts/serve

test: ## install what the tests need, run all of them
	@scripts/test

lint: ## formatting, clippy, rustdoc, shell scripts, the crate graph
	@scripts/lint

bench: ## install what the benchmarks need, run them all: some ten minutes on a quiet machine
	@scripts/bench

fuzz: ## every fuzz target for FUZZ_SECONDS (default 30) seconds
	@scripts/fuzz

clean-demo: stop ## remove what the demo made below target/demo
	@scripts/demo clean
