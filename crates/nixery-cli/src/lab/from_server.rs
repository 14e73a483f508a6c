//! Reads the history of pulls that servers recorded in their store.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nixery_config::{Arguments, StorageSettings};
use nixery_lab::replay::Workload;
use nixery_lab::traffic::{
    MOST_PULLS, RecordedPulls, RecordedWorkload, read_pulls, recorded_workload,
};

use crate::output;
use crate::progress::{Reporter, Unit};
use crate::settings::existing_storage;

/// A store with a history of pulls.
#[derive(clap::Args)]
pub(super) struct FromServerArgs {
    /// Replay the pulls that servers with `NIXERY_TRAFFIC_RECORD=true` recorded in this store
    #[arg(long, conflicts_with = "workload")]
    from_server: bool,

    /// Also write the recorded pulls as a workload. It contains store paths, and no addresses or
    /// fingerprints of clients
    #[arg(
        long,
        requires = "from_server",
        conflicts_with = "workload",
        value_name = "FILE",
        value_parser = output::file
    )]
    save: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    storage: Arguments<StorageSettings>,
}

impl FromServerArgs {
    /// Reads the history, saves it if requested, and reports what was left out.
    ///
    /// # Errors
    /// A setting is invalid, or the store has no usable history.
    pub(super) async fn workload(&self) -> Result<Workload> {
        let (_, storage) = existing_storage(&self.storage)?;
        let reporter = Reporter::new(self.quiet);
        let pulls = read_pulls(&*storage, |done, total| {
            reporter.at(Unit::Items, "pulls", done as u64, total as u64, "");
        });
        let recorded = pulls.await.context("cannot read the recorded pulls")?;
        let history = recorded_workload(&*storage, &recorded.pulls, |done, total| {
            reporter.at(Unit::Items, "graphs", done as u64, total as u64, "");
        });
        let history = history.await?;
        reporter.finish();
        for line in left_out(&recorded, &history) {
            output::note(&line);
        }
        if recorded.pulls.is_empty() {
            bail!(
                "the store has no recorded pulls. Fix: set NIXERY_TRAFFIC_RECORD=true (--traffic-record true) on the servers that use it, and try again five minutes after clients have pulled"
            );
        }
        if history.parts.events.is_empty() {
            bail!(
                "the store has no reference graph of any image that was pulled. Fix: build the images again with this version"
            );
        }
        // Before the replay, which may take long.
        if let Some(file) = &self.save {
            output::write(Some(file), &history.parts.to_json())?;
        }
        let workload = Workload::from_parts(&history.parts);
        workload.context("the recorded graphs contradict each other")
    }
}

/// Describes what the history lacks, a line each.
fn left_out(recorded: &RecordedPulls, history: &RecordedWorkload) -> Vec<String> {
    let mut lines = Vec::new();
    if let [(key, why), rest @ ..] = &recorded.unreadable[..] {
        let more = match rest.len() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        lines.push(format!(
            "left out: unreadable recorded pulls {key} ({why}){more}"
        ));
    }
    if recorded.left_out > 0 {
        lines.push(format!(
            "left out: {} older batches of pulls, because the limit is {MOST_PULLS} pulls",
            recorded.left_out
        ));
    }
    if history.without_graph > 0 {
        lines.push(format!(
            "left out: {} of {} pulls, of {} images whose reference graph is not in the store",
            history.without_graph,
            recorded.pulls.len(),
            history.images_without_graph
        ));
    }
    lines
}
