//! `nixery lab popcount`.

use std::path::PathBuf;

use anyhow::Result;
use nixery_lab::popularity::PopularityCounter;

use super::sources::PathSourceArgs;
use crate::errors::usage;
use crate::output;
use crate::progress::Reporter;

/// Count how many packages refer to each name. The result is popularity data for planning layers.
///
/// Use it with --popularity-url of build and serve, or with --pop of layers.
///
/// A source is a directory of .narinfo or .json files, one such file, or the URL of a binary cache.
/// A .json file is the output of `nix path-info --json` or a reference graph. For a cache,
/// --store-paths names the paths to fetch. A path counts once, even if several sources have it.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nix path-info --json --all > all.json; nixery lab popcount all.json --out popularity.json
  nixery lab popcount ./narinfos --out popularity.json
  xz -d < store-paths.xz > paths
  nixery lab popcount https://cache.nixos.org --store-paths paths --state count.state --out popularity.json

With --state, run the same command again to continue a count that was interrupted or failed.")]
pub(crate) struct PopcountArgs {
    #[command(flatten)]
    sources: PathSourceArgs,

    /// The file for the counts, as JSON [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(args: PopcountArgs) -> Result<()> {
    if args.sources.sources.is_empty() {
        return Err(usage(
            "there is nothing to count. Fix: name a SOURCE: a directory, a file, or the URL of a binary cache",
        ));
    }
    let reporter = Reporter::new(args.quiet);
    let counter: PopularityCounter = args.sources.read("counted", &reporter).await?;
    reporter.finish();
    let mut json = counter.to_json();
    json.push(b'\n');
    output::write(args.out.as_deref(), &json)
}
