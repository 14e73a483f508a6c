//! The registry as a program of its own. Everything is in the library.

use clap::Parser;
use nixery_server::Config;
use std::process::ExitCode;

/// A container registry that builds images from the packages their names list.
///
/// Every setting is a flag and an environment variable. Without any, it serves nixpkgs on port 8080.
#[derive(Parser)]
#[command(name = "nixery-server", version)]
struct Command {
    #[command(flatten)]
    config: Config,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::parse();
    match nixery_server::run(&command.config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in nixery_server::explain(&error).lines() {
                eprintln!("nixery-server: {line}");
            }
            error.exit_code().into()
        }
    }
}
