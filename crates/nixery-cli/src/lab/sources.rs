//! Reads information about many store paths from files, folders and binary caches.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nixery_core::StorePath;
use nixery_lab::path_sources::{
    BinaryCache, CacheOptions, CacheProgress, StateFile, add_path, parse_wanted_paths,
};
use nixery_lab::reference_sink::ReferenceSink;

use crate::errors::usage;
use crate::output;
use crate::progress::{Reporter, Unit};
use crate::signals::or_interrupted;

/// Sources of path information.
#[derive(clap::Args)]
pub(super) struct PathSourceArgs {
    /// Directories, files, and URLs of binary caches
    #[arg(value_name = "SOURCE")]
    pub(super) sources: Vec<String>,

    /// The paths to fetch from a binary cache: a store path or its 32-character hash per line; `-`
    /// is standard input
    #[arg(long, value_name = "FILE")]
    store_paths: Option<PathBuf>,

    /// A file that keeps what was read. A later run with it continues, or adds more sources
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Number of requests to a binary cache at the same time
    #[arg(long, value_name = "COUNT", default_value_t = CacheOptions::default().parallel,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    parallel: usize,

    /// Limit of attempts for one request to a binary cache
    #[arg(long, value_name = "COUNT", default_value_t = CacheOptions::default().attempts,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
}

impl PathSourceArgs {
    /// Reads all sources. Messages call their paths by the participle `did`: "counted".
    ///
    /// # Errors
    /// Sources do not fit together, or one cannot be read. A state keeps what was read before.
    pub(super) async fn read<S: ReferenceSink>(&self, did: &str, reporter: &Reporter) -> Result<S> {
        let (caches, files): (Vec<_>, Vec<_>) = self
            .sources
            .iter()
            .partition(|source| source.starts_with("http://") || source.starts_with("https://"));
        let wanted = self.wanted(!caches.is_empty())?;
        let mut options = CacheOptions::default();
        options.parallel = self.parallel;
        options.attempts = self.attempts;
        let mut state = self.state.as_ref().map(StateFile::new);
        let mut sink = match &state {
            Some(state) => state.load()?,
            None => S::default(),
        };
        let before = sink.paths();
        if before > 0 {
            reporter.line(&format!("continuing from {before} {did} paths"));
        }
        for file in files {
            add_path(&mut sink, Path::new(file), |found| {
                let message = format!("{found} files");
                reporter.at(Unit::Spinner, file, 0, 0, &message);
            })?;
            if let Some(state) = &mut state {
                state.save(&sink)?;
            }
        }
        for url in caches {
            let cache = BinaryCache::new(url, options).map_err(usage)?;
            let state = state.as_mut();
            let done = read_cache(&cache, url, &mut sink, &wanted, state, reporter).await?;
            reporter.line(&format!(
                "{url}: {} fetched, {} {did} before, {} not in the cache",
                done.fetched, done.known_before, done.missing
            ));
            if done.missing == done.wanted {
                let wanted = done.wanted;
                bail!(
                    "{url} has none of the {wanted} store paths. Fix: check the URL and the list of paths"
                );
            }
        }
        if sink.paths() > 0 {
            let now = sink.paths() - before;
            reporter.line(&format!(
                "{} paths {did}, {now} of them in this run",
                sink.paths()
            ));
        }
        Ok(sink)
    }

    /// The paths to fetch from the caches, if there are any.
    fn wanted(&self, caches: bool) -> Result<Vec<StorePath>> {
        match (&self.store_paths, caches) {
            (Some(list), true) => read_list(list),
            (None, false) => Ok(Vec::new()),
            (None, true) => Err(usage(
                "a binary cache has no list of its paths. Fix: name the paths to fetch with --store-paths FILE",
            )),
            (Some(_), false) => Err(usage(
                "--store-paths needs a binary cache. Fix: add its http:// or https:// URL",
            )),
        }
    }
}

fn read_list(path: &Path) -> Result<Vec<StorePath>> {
    let text = String::from_utf8_lossy(&output::read(path)?).into_owned();
    let wanted =
        parse_wanted_paths(&text).with_context(|| format!("{} cannot be used", path.display()))?;
    if wanted.is_empty() {
        bail!("{} names no store path", path.display());
    }
    Ok(wanted)
}

async fn read_cache(
    cache: &BinaryCache,
    url: &str,
    sink: &mut impl ReferenceSink,
    wanted: &[StorePath],
    mut state: Option<&mut StateFile>,
    reporter: &Reporter,
) -> Result<CacheProgress> {
    let progress = |at: &CacheProgress| {
        let message = format!("{} not in the cache", at.missing);
        let (done, total) = (at.done() as u64, at.wanted as u64);
        reporter.at(Unit::Items, url, done, total, &message);
    };
    let read = cache.read(sink, wanted, state.as_deref_mut(), progress);
    let done = or_interrupted(read).await;
    if let (Err(_), Some(state)) = (&done, state) {
        state.save(sink)?;
        reporter.line("the state is saved. Run the same command again to continue");
    }
    Ok(done??)
}
