//! The images that a store remembers, as a source of a plan.

use anyhow::{Result, bail};
use nixery_config::{Arguments, StorageSettings, setup};
use nixery_lab::cluster_plan::PathCollection;
use nixery_lab::gather;
use nixery_state::graphs;

use crate::output;
use crate::progress::{Reporter, Unit};

/// Whether, and from which store.
#[derive(Default, clap::Args)]
pub(super) struct HistoryArgs {
    /// Take what the images of a store held, those that were dropped lately too: of the store that the
    /// storage settings name, as servers on it have them
    #[arg(long)]
    from_store: bool,

    #[command(flatten)]
    storage: Arguments<StorageSettings>,
}

impl HistoryArgs {
    /// Whether a store's images are to be taken.
    pub(super) fn given(&self) -> bool {
        self.from_store
    }

    /// Where they come from, in a word.
    pub(super) fn described(&self) -> Option<String> {
        self.from_store.then(|| "history".to_owned())
    }

    /// Adds the recorded images to `paths`, the newest first.
    ///
    /// # Errors
    /// Wrong settings, a store that cannot be read, or one in which nothing is recorded.
    pub(super) async fn add(
        &self,
        paths: &mut PathCollection,
        reporter: &mut Reporter,
    ) -> Result<()> {
        let settings = self.storage.settings()?;
        output::warn(&settings.ignored);
        let storage = setup::existing_storage(&settings)?;
        let store = &settings.backend;
        let entries = graphs::list(&*storage).await?;
        let total = entries.len() as u64;
        let read = gather(&*storage, &entries, paths, |at| {
            let done = (at.images + at.unusable) as u64;
            reporter.at(Unit::Items, "recorded images", done, total, "");
        });
        let read = read.await?;
        if read.unusable > 0 {
            reporter.line(&format!(
                "warning: {} recorded graphs are damaged or of another version of Nixery; the plan is made without them",
                read.unusable
            ));
        }
        if read.images == 0 {
            bail!("no reference graph is recorded in {store}: build images first");
        }
        reporter.line(&format!("{} images recorded in {store}", read.images));
        Ok(())
    }
}
