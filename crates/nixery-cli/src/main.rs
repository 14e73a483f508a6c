//! The `nixery` command. Everything it does is in the libraries; here are flags, progress and
//! printing.

mod build;
mod errors;
mod gc;
mod image;
mod layers;
mod output;
mod plan;
mod popcount;
mod progress;
#[cfg(feature = "serve")]
mod serve;
mod signals;
mod sources;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// How long work that is being stopped may take to clean up behind itself.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// Builds container images from Nix packages, named by their contents.
#[derive(Parser)]
#[command(name = "nixery", version, after_help = EXIT_CODES, after_long_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0    done
  1    it failed; for verify: something is corrupt
  2    wrong flags, variables or arguments
  130  interrupted"
    };
}

const EXIT_CODES: &str = exit_codes!();

const EXAMPLES: &str = concat!(
    "\
Examples:
  nixery build shell/git/htop --pkgs-path ./packages   a docker archive: shell-git-htop.tar
  nixery build git:nixos-26.05 --output oci:images     into an OCI layout
  nixery layers graph.json --budget 20                 which path goes into which layer, and why
  nixery plan build all.json --out plan.nixery         which packages share a layer in every image
  nixery layers replay workload.json                   what each strategy would have moved
  nixery popcount all.json --out popularity.json       how many packages need which
  nixery verify --storage-path /var/lib/nixery         is the store sound?
  nixery gc --max-unused 30d --dry-run                 what a collection of garbage would drop
  nixery serve --port 8080                             the registry

Each command has examples of its own: nixery build --help.

",
    exit_codes!()
);

#[derive(Subcommand)]
// One is made per run.
#[allow(clippy::large_enum_variant)]
enum Command {
    Build(build::BuildArgs),
    Layers(layers::LayersArgs),
    Plan(plan::PlanArgs),
    Popcount(popcount::PopcountArgs),
    Verify(verify::VerifyArgs),
    Gc(gc::GcArgs),
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            errors::print(&anyhow::Error::new(error).context("cannot start the runtime"));
            return errors::FAILURE.into();
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Build(args) => build::run(args).await,
            // A signal ends it, as it reads and plans in one go; while Nix builds an image's packages, in order.
            Command::Layers(args) => layers::run(args).await,
            Command::Plan(args) => plan::run(args).await,
            Command::Popcount(args) => popcount::run(args).await,
            Command::Verify(args) => signals::or_interrupted(verify::run(args)).await,
            // Whatever it has done when a signal comes is whole.
            Command::Gc(args) => signals::or_interrupted(gc::run(args)).await,
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::run(args).await,
        }
    });
    // What was dropped half-way, Nix and temporary files, gets time to go.
    runtime.shutdown_timeout(CLEAN_UP);
    match result {
        Ok(code) => code,
        Err(error) => errors::report(&error),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
