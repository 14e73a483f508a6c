//! The history of pulls that servers recorded in their store.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nixery_config::{Arguments, StorageSettings, setup};
use nixery_lab::replay::Workload;
use nixery_lab::traffic::{
    MOST_PULLS, RecordedPulls, RecordedWorkload, read_pulls, recorded_workload,
};

use crate::output;
use crate::progress::{Reporter, Unit};

/// Which store, and what else to do with its history.
#[derive(clap::Args)]
pub(super) struct FromServerArgs {
    /// Replay the pulls that servers with `NIXERY_TRAFFIC_RECORD=true` recorded in this store
    #[arg(long, conflicts_with = "workload")]
    from_server: bool,

    /// Writes the recorded pulls as a workload, too; it has store paths in it, and no addresses or
    /// fingerprints
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

    // Last: the flags after it would stand under its heading.
    #[command(flatten)]
    storage: Arguments<StorageSettings>,
}

impl FromServerArgs {
    /// Reads what the store has, saves it if that is asked for, and says what was left out.
    pub(super) async fn workload(&self) -> Result<Workload> {
        let settings = self.storage.settings()?;
        output::warn(&settings.ignored);
        let storage = setup::existing_storage(&settings)?;
        let mut reporter = Reporter::new(self.quiet);
        let pulls = read_pulls(&*storage, MOST_PULLS, |done, total| {
            reporter.at(Unit::Items, "pulls", done as u64, total as u64, "");
        });
        let recorded = pulls.await.context("recorded pulls cannot be read")?;
        let history = recorded_workload(&*storage, &recorded.pulls, |done, total| {
            reporter.at(Unit::Items, "graphs", done as u64, total as u64, "");
        });
        let history = history.await;
        reporter.finish();
        let history = history?;
        for line in left_out(&recorded, &history) {
            output::note(&line);
        }
        if recorded.pulls.is_empty() {
            bail!(
                "the store has no recorded pulls: switch recording on with NIXERY_TRAFFIC_RECORD=true (--traffic-record true) of the servers that use it, and look again when clients have pulled; pulls are stored within five minutes"
            );
        }
        if history.parts.events.is_empty() {
            bail!(
                "the store has no reference graph of any image that was pulled: graphs are recorded when images are built, since the version that has this command"
            );
        }
        // Before it is replayed, which may take long.
        if let Some(file) = &self.save {
            output::write(Some(file), &history.parts.to_json())?;
        }
        let workload = Workload::from_parts(&history.parts);
        workload.context("the recorded graphs do not go together")
    }
}

/// What the history lacks, a sentence each.
fn left_out(recorded: &RecordedPulls, history: &RecordedWorkload) -> Vec<String> {
    let mut lines = Vec::new();
    if let [(key, why), rest @ ..] = &recorded.unreadable[..] {
        let more = match rest.len() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        lines.push(format!(
            "left out: recorded pulls that cannot be read, {key} ({why}){more}"
        ));
    }
    if recorded.left_out > 0 {
        lines.push(format!(
            "left out: {} older batches of pulls, as there are more than {MOST_PULLS} pulls",
            recorded.left_out
        ));
    }
    if history.without_graph > 0 {
        lines.push(format!(
            "left out: {} of {} pulls, of {} images whose reference graph the store does not have",
            history.without_graph,
            recorded.pulls.len(),
            history.images_without_graph
        ));
    }
    lines
}
