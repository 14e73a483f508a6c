//! `nixery lab plan`: makes and reads cluster plans.

mod attributes;
mod build;
mod history;
mod show;

use anyhow::Result;
use clap::Subcommand;

/// Make or read a cluster plan, which says which packages share a layer in every image.
///
/// A plan is made once for a package set. The layer strategy `plan` uses it.
#[derive(Subcommand)]
// One is made per run.
#[allow(clippy::large_enum_variant)]
pub(crate) enum PlanCommand {
    Build(build::PlanBuildArgs),
    Show(show::PlanShowArgs),
}

pub(super) async fn run(command: PlanCommand) -> Result<()> {
    match command {
        PlanCommand::Build(args) => build::run(args).await,
        PlanCommand::Show(args) => show::run(&args).await,
    }
}
