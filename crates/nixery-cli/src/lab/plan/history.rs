//! The images that a store has recorded, as a source of a plan.

use anyhow::{Result, bail};
use nixery_config::{Arguments, StorageSettings};
use nixery_lab::cluster_plan::PathCollection;
use nixery_lab::gather;
use nixery_state::graphs;

use crate::progress::{Reporter, Unit};
use crate::settings::existing_storage;

/// The images of a store.
#[derive(clap::Args)]
pub(super) struct HistoryArgs {
    /// Use the images that a store has recorded, including recently dropped ones. The settings of
    /// the blob store are those of the servers that use it
    #[arg(long)]
    pub(super) from_store: bool,

    #[command(flatten)]
    storage: Arguments<StorageSettings>,
}

impl HistoryArgs {
    /// Adds the recorded images to `paths`, the newest first.
    ///
    /// # Errors
    /// A setting is invalid, or the store cannot be read or has no recorded images.
    pub(super) async fn add_to(
        &self,
        paths: &mut PathCollection,
        reporter: &Reporter,
    ) -> Result<()> {
        let (settings, storage) = existing_storage(&self.storage)?;
        let store = &settings.backend;
        let entries = graphs::list(&*storage).await?;
        let total = entries.len() as u64;
        let gathered = gather(&*storage, &entries, paths, |at| {
            let done = (at.images + at.unusable) as u64;
            reporter.at(Unit::Items, "recorded images", done, total, "");
        });
        let gathered = gathered.await?;
        if gathered.unusable > 0 {
            reporter.line(&format!(
                "warning: {} recorded graphs are left out because they are damaged or from another version of Nixery",
                gathered.unusable
            ));
        }
        if gathered.images == 0 {
            bail!("no reference graph is recorded in {store}. Fix: build images first");
        }
        reporter.line(&format!("{} images recorded in {store}", gathered.images));
        Ok(())
    }
}
