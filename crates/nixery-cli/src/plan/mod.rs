//! `nixery plan`: making and reading cluster plans.

mod attributes;
mod build;
mod history;
mod show;

use std::process::ExitCode;

use anyhow::Result;

/// Make or read a cluster plan, which says which packages share a layer in every image.
///
/// A plan is made once for a package set, and used by the layer strategy `plan`.
#[derive(clap::Args)]
pub(crate) struct PlanArgs {
    #[command(subcommand)]
    command: PlanCommand,
}

#[derive(clap::Subcommand)]
// One is made per run.
#[allow(clippy::large_enum_variant)]
enum PlanCommand {
    Build(build::PlanBuildArgs),
    Show(show::PlanShowArgs),
}

pub(crate) async fn run(args: PlanArgs) -> Result<ExitCode> {
    match args.command {
        PlanCommand::Build(args) => build::run(args).await,
        PlanCommand::Show(args) => show::run(&args).await,
    }
}
