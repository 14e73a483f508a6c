//! `nixery lab plan`: makes and reads cluster plans.

mod attributes;
pub(super) mod build;
mod history;
pub(super) mod show;

use clap::Subcommand;

/// Make or read a cluster plan, which lists the packages that share a layer in every image.
///
/// A plan is made once for a package set. The layer strategy `plan` uses it.
#[derive(Subcommand)]
// One is made per run.
#[allow(clippy::large_enum_variant)]
pub(crate) enum PlanCommand {
    Build(build::PlanBuildArgs),
    Show(show::PlanShowArgs),
}
