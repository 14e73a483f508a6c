//! Gathering the input of a cluster plan from recorded graphs.

use futures::{Stream, StreamExt, stream};
use nixery_manifest::Digest;
use nixery_state::graphs::{self, GraphEntry, GraphsError, RecordedGraph};
use nixery_storage::{Storage, error_chain};

use crate::cluster_plan::PathCollection;

/// Number of graphs that are read concurrently, to hide the latency of a remote store.
const CONCURRENT_READS: usize = 16;

/// Progress of the reading of graphs.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatherProgress {
    /// Number of images whose graphs were read.
    pub images: usize,
    /// Number of graphs that are damaged, or of another version, and were skipped.
    pub unusable: usize,
}

/// Adds the images of these graphs to `paths`, in this order. Graphs that were deleted meanwhile
/// are skipped. Unusable graphs are logged and skipped. `progress` is called after each graph.
///
/// # Errors
/// The store failed.
pub async fn gather(
    storage: &dyn Storage,
    entries: &[GraphEntry],
    paths: &mut PathCollection,
    mut progress: impl FnMut(GatherProgress) + Send,
) -> Result<GatherProgress, GraphsError> {
    let mut gathered = GatherProgress::default();
    let mut images = Box::pin(read_graphs(storage, entries.iter().map(|entry| entry.key)));
    while let Some(image) = images.next().await {
        match image {
            Ok(Some(image)) => {
                paths.add_image(&image.graph);
                gathered.images += 1;
            }
            Ok(None) => {}
            Err(error @ GraphsError::File { .. }) => {
                let error = error_chain(&error);
                tracing::warn!(error, "a recorded graph is skipped");
                gathered.unusable += 1;
            }
            Err(error) => return Err(error),
        }
        progress(gathered);
    }
    Ok(gathered)
}

/// Reads the graphs of these images in this order, several concurrently.
pub(crate) fn read_graphs<'a>(
    storage: &'a dyn Storage,
    images: impl Iterator<Item = Digest>,
) -> impl Stream<Item = Result<Option<RecordedGraph>, GraphsError>> + 'a {
    let images: Vec<Digest> = images.collect();
    stream::iter(images)
        .map(move |image| graphs::read(storage, image))
        .buffered(CONCURRENT_READS)
}
