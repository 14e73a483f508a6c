//! The registry as a program of its own. Everything is in the library.

use clap::Parser;
use nixery_server::config::{Arguments, Settings};
use std::process::ExitCode;

/// A container registry that builds images from the packages their names list.
///
/// Every setting is a flag and an environment variable. Without any, it serves nixpkgs on port 8080.
/// More settings are in docs/configuration.md.
#[derive(Parser)]
#[command(name = "nixery-server", version)]
struct Command {
    /// Check all settings, print warnings and the settings in effect, and start nothing
    #[arg(long)]
    check_config: bool,

    #[command(flatten)]
    config: Arguments<Settings>,
}

/// Answering from memory is a fifth allocation with the system's allocator. Built with `no_thp`: in pages of 2 MiB what
/// a few slow readers need lies on twice to three times the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::parse();
    let done = if command.check_config {
        nixery_server::check(&command.config).map(|(warnings, summary)| {
            for warning in warnings {
                eprintln!("nixery-server: warning: {warning}");
            }
            print!("{summary}");
        })
    } else {
        nixery_server::run(&command.config).await
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in nixery_server::explain(&error).lines() {
                eprintln!("nixery-server: {line}");
            }
            error.exit_code().into()
        }
    }
}
