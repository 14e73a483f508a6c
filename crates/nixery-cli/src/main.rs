//! The `nixery` command: flags, progress and output. The work is done by the libraries.

mod build;
mod errors;
mod gc;
mod image;
#[cfg(feature = "lab")]
mod lab;
mod layers;
mod output;
mod progress;
#[cfg(feature = "serve")]
mod serve;
mod settings;
mod signals;
mod svg;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

/// How long work that was stopped may take to clean up.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// Build container images from the Nix packages that their names list.
#[derive(Parser)]
#[command(
    name = "nixery",
    version,
    after_help = "\
Examples:
  nixery build shell/git/htop --pkgs-path ./packages   write a docker archive, shell-git-htop.tar
  nixery build git:nixos-26.05 --output oci:images     add the image to an OCI layout
  nixery layers graph.json --budget 20                 show which paths share a layer, and why
  nixery verify --storage-path /var/lib/nixery         check every blob of a store
  nixery gc --max-unused 30d --dry-run                 show what garbage collection would delete
  nixery serve --port 8080                             run the registry
  nixery lab plan build all.json --out plan.nixery     plan which packages share a layer everywhere
  nixery lab replay workload.json                      compare what layer strategies transfer

The help of each command has more examples: nixery build --help.

Exit codes:
  0    success
  1    failure, or nixery verify found a corrupt object
  2    wrong flags, variables or arguments
  130  interrupted"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
// One is made per run.
#[allow(clippy::large_enum_variant)]
enum Command {
    Build(build::BuildArgs),
    Layers(layers::LayersArgs),
    Verify(verify::VerifyArgs),
    Gc(gc::GcArgs),
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    #[cfg(feature = "lab")]
    #[command(subcommand)]
    Lab(lab::LabCommand),
}

fn main() -> ExitCode {
    // Nix runs as the same user, and may evaluate code of others.
    if let Err(error) = nixery_nix::hide_process_memory() {
        output::note(&format!(
            "warning: other programs of this user can read the memory of this one: {error}"
        ));
    }
    let cli = Cli::try_parse().unwrap_or_else(|error| suggest_lab(error).exit());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            errors::print(&anyhow::Error::new(error).context("cannot start the runtime"));
            return errors::FAILURE.into();
        }
    };
    let result = runtime.block_on(run(cli.command));
    // Gives Nix and temporary files of work that was stopped the time to end.
    runtime.shutdown_timeout(CLEAN_UP);
    result.unwrap_or_else(|error| errors::report(&error))
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Verify(args) => return signals::or_interrupted(verify::run(args)).await?,
        Command::Build(args) => build::run(args).await,
        // Reading and planning never yield, so a signal has its default effect until Nix builds
        // packages.
        Command::Layers(args) => layers::run(args).await,
        // A collection may be interrupted at any point.
        Command::Gc(args) => signals::or_interrupted(gc::run(args)).await?,
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args).await,
        #[cfg(feature = "lab")]
        Command::Lab(command) => lab::run(command).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Adds to an error of the argument parser where a command of an older version is now.
fn suggest_lab(mut error: clap::Error) -> clap::Error {
    let arguments: Vec<_> = std::env::args_os().skip(1).take(2).collect();
    let arguments: Vec<_> = arguments.iter().filter_map(|text| text.to_str()).collect();
    let moved = match arguments[..] {
        [command @ ("plan" | "popcount"), ..] | ["layers", command @ "replay"] => command,
        _ => return error,
    };
    let tip = format!("the command is `nixery lab {moved}`");
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![tip.into()]),
    );
    error
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
