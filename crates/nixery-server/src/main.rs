//! The program `nixery-server`.

use std::process::ExitCode;

use clap::Parser;
use nixery_server::config::{Arguments, Settings};
use nixery_storage::error_chain;

/// A container registry that builds images from the packages their names list.
///
/// Each setting is a flag and an environment variable. If none is set, the server serves nixpkgs
/// on port 8080. More settings are in docs/configuration.md.
#[derive(Parser)]
#[command(name = "nixery-server", version)]
struct Command {
    /// Check all settings and their files, print warnings and the settings in effect, and exit
    #[arg(long)]
    check_config: bool,

    #[command(flatten)]
    config: Arguments<Settings>,
}

/// With the system's allocator, a fifth of the time of an answer from memory is allocation. It is
/// built with `no_thp`: with pages of 2 MiB, a few slow readers need two to three times the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::parse();
    let done = if command.check_config {
        let checked = nixery_server::check(&command.config).await;
        checked.map(|(warnings, summary)| {
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
            for line in error_chain(&error).lines() {
                eprintln!("nixery-server: {line}");
            }
            error.exit_code().into()
        }
    }
}
