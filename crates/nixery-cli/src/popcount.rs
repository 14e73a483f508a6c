//! `nixery popcount`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use nixery_lab::popularity::PopularityCounter;

use crate::errors::Usage;
use crate::output;
use crate::progress::Reporter;
use crate::sources::PathSourceArgs;

/// Count how many packages refer to each name: popularity data for planning layers.
///
/// The result is for `--popularity-url` of build and serve, and for `nixery layers --pop`.
///
/// A source is a directory of .narinfo or .json files, one such file (a narinfo, what
/// `nix path-info --json` prints, or a reference graph, told apart by its contents), or the
/// http:// or https:// address of a binary cache. Of a cache, --store-paths says what to fetch.
/// Each referring path counts once, however many sources have it.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nix path-info --json --all > all.json; nixery popcount all.json --out popularity.json
  nixery popcount ./narinfos --out popularity.json
  xz -d < store-paths.xz > paths
  nixery popcount https://cache.nixos.org --store-paths paths --state count.state --out popularity.json

With --state, a count that is interrupted or fails goes on where it stopped: run it again.")]
pub(crate) struct PopcountArgs {
    #[command(flatten)]
    sources: PathSourceArgs,

    /// Where to write the counts, as JSON [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(args: PopcountArgs) -> Result<ExitCode> {
    if args.sources.sources.is_empty() {
        let message = "nothing to count: give a SOURCE, which is a directory, a file, or the address of a binary cache";
        return Err(Usage(message.into()).into());
    }
    let mut reporter = Reporter::new(args.quiet);
    let counter: PopularityCounter = args.sources.read("counted", &mut reporter).await?;
    reporter.finish();
    let mut json = counter.to_json();
    json.push(b'\n');
    output::write(args.out.as_deref(), &json)?;
    Ok(ExitCode::SUCCESS)
}
