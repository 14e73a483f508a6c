//! From recorded graphs to what a plan is made of.

use crate::cluster_plan::PathCollection;
use futures::StreamExt;
use futures::stream;
use nixery_storage::Storage;

use nixery_state::graphs::{GraphEntry, GraphsError, RecordedGraph, read};

/// Graphs read at once: hides a remote store's latency.
const READS: usize = 16;

/// How far the reading of graphs is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Images whose graphs were read.
    pub images: usize,
    /// Graphs that are damaged, or of another version, and were passed over.
    pub unusable: usize,
}

/// Adds the images of these graphs to `paths`, in this order. Whatever went away meanwhile is passed over, and so
/// are graphs that cannot be used, which are logged. `progress` is called after each graph.
///
/// # Errors
/// The store failed.
pub async fn gather(
    storage: &dyn Storage,
    entries: &[GraphEntry],
    paths: &mut PathCollection,
    mut progress: impl FnMut(Gathered) + Send,
) -> Result<Gathered, GraphsError> {
    let mut gathered = Gathered::default();
    let mut reads = Box::pin(all(storage, entries));
    while let Some(read) = reads.next().await {
        match read {
            Ok(Some(image)) => {
                paths.add_image(&image.graph);
                gathered.images += 1;
            }
            Ok(None) => {}
            Err(error @ GraphsError::File { .. }) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(cause, "{error}: passed over");
                gathered.unusable += 1;
            }
            Err(error) => return Err(error),
        }
        progress(gathered);
    }
    Ok(gathered)
}

/// The graphs in the order of their entries, several read at once.
pub(crate) fn all<'a>(
    storage: &'a dyn Storage,
    entries: &[GraphEntry],
) -> impl stream::Stream<Item = Result<Option<RecordedGraph>, GraphsError>> + 'a {
    let keys: Vec<_> = entries.iter().map(|entry| entry.key).collect();
    stream::iter(keys)
        .map(move |key| read(storage, key))
        .buffered(READS)
}
