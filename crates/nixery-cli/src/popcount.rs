//! `nixery popcount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nixery_builder::popcount::{BinaryCache, CacheOptions, StateFile, WantedPath, add_path};
use nixery_core::PopularityCounter;

use crate::errors::{Interrupted, Usage};
use crate::output;
use crate::progress::{Reporter, Unit};
use crate::signals::interrupted;

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
    /// Directories, files, and addresses of binary caches
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,

    /// What to fetch from a binary cache: a store path or its 32-character hash per line; `-` is
    /// standard input
    #[arg(long, value_name = "FILE")]
    store_paths: Option<PathBuf>,

    /// Keeps the count while it runs and goes on from it; kept at the end too, to add more later
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Where to write the counts, as JSON [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Requests at once to a binary cache
    #[arg(long, value_name = "COUNT", default_value_t = CacheOptions::default().parallel,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    parallel: usize,

    /// How often a request is tried before the count stops
    #[arg(long, value_name = "COUNT", default_value_t = CacheOptions::default().attempts,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(args: PopcountArgs) -> Result<ExitCode> {
    let (caches, files): (Vec<_>, Vec<_>) = args
        .sources
        .iter()
        .partition(|source| source.starts_with("http://") || source.starts_with("https://"));
    let wanted = match (&args.store_paths, caches.is_empty()) {
        (Some(list), false) => read_list(list)?,
        (None, true) => Vec::new(),
        (None, false) => {
            let message = "a binary cache needs --store-paths: it does not tell what it holds";
            return Err(Usage(message.into()).into());
        }
        (Some(_), true) => {
            let message = "--store-paths needs the http:// or https:// address of a binary cache";
            return Err(Usage(message.into()).into());
        }
    };
    let options = CacheOptions {
        parallel: args.parallel,
        attempts: args.attempts,
    };
    let mut state = args.state.map(StateFile::new);
    let mut counter = match &state {
        Some(state) => state.load()?,
        None => PopularityCounter::default(),
    };
    let before = counter.paths();
    let mut reporter = Reporter::new(args.quiet);
    if before > 0 {
        reporter.line(&format!("going on from {before} counted paths"));
    }
    for file in files {
        count_files(&mut counter, Path::new(file), &mut reporter)?;
        if let Some(state) = &mut state {
            state.save(&counter)?;
        }
    }
    for url in caches {
        let cache = BinaryCache::new(url, options).map_err(|error| Usage(error.to_string()))?;
        count_cache(
            &cache,
            url,
            &mut counter,
            &wanted,
            state.as_mut(),
            &mut reporter,
        )
        .await?;
    }
    reporter.line(&format!(
        "{} paths counted, {} of them now",
        counter.paths(),
        counter.paths() - before
    ));
    reporter.finish();
    let mut json = counter.to_json();
    json.push(b'\n');
    output::write(args.out.as_deref(), &json)?;
    Ok(ExitCode::SUCCESS)
}

fn read_list(path: &Path) -> Result<Vec<WantedPath>> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    let wanted = WantedPath::parse_list(&text)
        .with_context(|| format!("{} cannot be used", path.display()))?;
    if wanted.is_empty() {
        bail!("{} names no store path", path.display());
    }
    Ok(wanted)
}

fn count_files(
    counter: &mut PopularityCounter,
    path: &Path,
    reporter: &mut Reporter,
) -> Result<()> {
    let prefix = path.display().to_string();
    add_path(counter, path, |found| {
        let message = format!("{} files", found.total());
        reporter.at(Unit::Spinner, &prefix, 0, 0, &message);
    })?;
    Ok(())
}

async fn count_cache(
    cache: &BinaryCache,
    url: &str,
    counter: &mut PopularityCounter,
    wanted: &[WantedPath],
    mut state: Option<&mut StateFile>,
    reporter: &mut Reporter,
) -> Result<()> {
    let done = {
        let progress = |at: &nixery_builder::popcount::CountProgress| {
            let message = format!("{} not in the cache", at.missing);
            let (done, total) = (at.done() as u64, at.wanted as u64);
            reporter.at(Unit::Items, url, done, total, &message);
        };
        tokio::select! {
            done = cache.count(counter, wanted, state.as_deref_mut(), progress) => Some(done),
            () = interrupted() => None,
        }
    };
    let Some(done) = done else {
        if let Some(state) = state {
            state.save(counter)?;
            reporter.line("the state is saved: run the same command again to go on");
        }
        return Err(Interrupted.into());
    };
    let done = done?;
    reporter.line(&format!(
        "{url}: {} fetched, {} counted before, {} not in the cache",
        done.fetched, done.counted_before, done.missing
    ));
    if done.missing == done.wanted {
        bail!(
            "{url} has none of the {} store paths: is it the right cache?",
            done.wanted
        );
    }
    Ok(())
}
