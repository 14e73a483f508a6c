//! `nixery serve`.

use anyhow::Result;
use nixery_config::{Arguments, Settings};
use nixery_server::RunError;

use crate::errors::Interrupted;

/// Run the registry.
///
/// The flags and environment variables are those of nixery-server. If none is set, the registry
/// serves nixpkgs on port 8080.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery serve
  nixery serve --port 5000 --pkgs-path ./packages --storage-path /var/lib/nixery
  NIXERY_CHANNEL=nixos-unstable PORT=8080 nixery serve

Then pull an image; its name lists its packages:
  skopeo copy --src-tls-verify=false docker://localhost:8080/shell/git/htop docker-archive:image.tar")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    config: Arguments<Settings>,
}

pub(crate) async fn run(args: ServeArgs) -> Result<()> {
    match nixery_server::run(&args.config).await {
        Ok(()) => Ok(()),
        // Wrong settings and signals have exit codes of their own.
        Err(RunError::Config(errors)) => Err(errors.into()),
        Err(RunError::Interrupted) => Err(Interrupted.into()),
        Err(error) => Err(error.into()),
    }
}
