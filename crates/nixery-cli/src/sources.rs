//! Where commands read about many store paths: files, folders and binary caches.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nixery_core::StorePath;
use nixery_lab::path_sources::{
    BinaryCache, CacheOptions, CacheProgress, StateFile, add_path, parse_wanted_paths,
};
use nixery_lab::reference_sink::ReferenceSink;

use crate::errors::{Interrupted, Usage};
use crate::progress::{Reporter, Unit};
use crate::signals::interrupted;

/// What to read.
#[derive(clap::Args)]
pub(crate) struct PathSourceArgs {
    /// Directories, files, and addresses of binary caches
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,

    /// What to fetch from a binary cache: a store path or its 32-character hash per line; `-` is
    /// standard input
    #[arg(long, value_name = "FILE")]
    store_paths: Option<PathBuf>,

    /// Keeps what was read while it runs and goes on from it; kept at the end too, to add more
    /// later
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Requests at once to a binary cache
    #[arg(long, value_name = "COUNT", default_value_t = CacheOptions::default().parallel,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    parallel: usize,

    /// How often a request to a binary cache is tried before the command fails
    #[arg(long, value_name = "COUNT", default_value_t = CacheOptions::default().attempts,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
}

impl PathSourceArgs {
    /// Reads all sources; `did` says in messages what is done with a path: "counted".
    ///
    /// # Errors
    /// Sources that do not fit together, or the first one that cannot be used; with a state, what was
    /// read before is kept.
    pub(crate) async fn read<S: ReferenceSink>(
        &self,
        did: &str,
        reporter: &mut Reporter,
    ) -> Result<S> {
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
            reporter.line(&format!("going on from {before} {did} paths"));
        }
        for file in files {
            read_files(&mut sink, Path::new(file), reporter)?;
            if let Some(state) = &mut state {
                state.save(&sink)?;
            }
        }
        for url in caches {
            let cache = BinaryCache::new(url, options).map_err(|error| Usage(error.to_string()))?;
            let done =
                read_cache(&cache, url, &mut sink, &wanted, state.as_mut(), reporter).await?;
            reporter.line(&format!(
                "{url}: {} fetched, {} {did} before, {} not in the cache",
                done.fetched, done.known_before, done.missing
            ));
            if done.missing == done.wanted {
                let wanted = done.wanted;
                bail!("{url} has none of the {wanted} store paths: is it the right cache?");
            }
        }
        if sink.paths() > 0 {
            let now = sink.paths() - before;
            reporter.line(&format!("{} paths {did}, {now} of them now", sink.paths()));
        }
        Ok(sink)
    }

    /// What to fetch from the caches, if there are any.
    fn wanted(&self, caches: bool) -> Result<Vec<StorePath>> {
        match (&self.store_paths, caches) {
            (Some(list), true) => read_list(list),
            (None, false) => Ok(Vec::new()),
            (None, true) => {
                let message = "a binary cache needs --store-paths: it does not tell what it holds";
                Err(Usage(message.into()).into())
            }
            (Some(_), false) => {
                let message =
                    "--store-paths needs the http:// or https:// address of a binary cache";
                Err(Usage(message.into()).into())
            }
        }
    }
}

fn read_list(path: &Path) -> Result<Vec<StorePath>> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    let wanted =
        parse_wanted_paths(&text).with_context(|| format!("{} cannot be used", path.display()))?;
    if wanted.is_empty() {
        bail!("{} names no store path", path.display());
    }
    Ok(wanted)
}

fn read_files(sink: &mut impl ReferenceSink, path: &Path, reporter: &mut Reporter) -> Result<()> {
    let prefix = path.display().to_string();
    add_path(sink, path, |files| {
        let message = format!("{files} files");
        reporter.at(Unit::Spinner, &prefix, 0, 0, &message);
    })?;
    Ok(())
}

async fn read_cache(
    cache: &BinaryCache,
    url: &str,
    sink: &mut impl ReferenceSink,
    wanted: &[StorePath],
    mut state: Option<&mut StateFile>,
    reporter: &mut Reporter,
) -> Result<CacheProgress> {
    let done = {
        let progress = |at: &CacheProgress| {
            let message = format!("{} not in the cache", at.missing);
            let (done, total) = (at.done() as u64, at.wanted as u64);
            reporter.at(Unit::Items, url, done, total, &message);
        };
        tokio::select! {
            done = cache.read(sink, wanted, state.as_deref_mut(), progress) => Some(done),
            () = interrupted() => None,
        }
    };
    let Some(done) = done else {
        if let Some(state) = state {
            state.save(sink)?;
            reporter.line("the state is saved: run the same command again to go on");
        }
        return Err(Interrupted.into());
    };
    Ok(done?)
}
