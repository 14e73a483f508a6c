//! `nixery lab`: makes and evaluates the data that layer strategies plan by.

mod plan;
mod popcount;
mod replay;
mod sources;
mod weeks;

use anyhow::Result;
use clap::Subcommand;

use plan::PlanCommand;

/// Make cluster plans and popularity data, and replay pulls.
///
/// The registry works without these commands. They make and evaluate the data with which
/// `nixery serve` and `nixery build` divide images into layers.
#[derive(Subcommand)]
#[command(after_long_help = "\
Examples:
  nixery lab plan build all.json --out plan.nixery
  nixery lab plan show plan.nixery --name glibc
  nixery lab popcount all.json --out popularity.json
  nixery lab replay workload.json --plan plan.nixery")]
// One is made per run.
#[allow(clippy::large_enum_variant)]
pub(crate) enum LabCommand {
    #[command(subcommand)]
    Plan(PlanCommand),
    Popcount(popcount::PopcountArgs),
    Replay(replay::ReplayArgs),
}

pub(crate) async fn run(command: LabCommand) -> Result<()> {
    match command {
        LabCommand::Plan(PlanCommand::Build(args)) => plan::build::run(args).await,
        LabCommand::Plan(PlanCommand::Show(args)) => plan::show::run(&args).await,
        LabCommand::Popcount(args) => popcount::run(args).await,
        LabCommand::Replay(args) => replay::run(args).await,
    }
}
