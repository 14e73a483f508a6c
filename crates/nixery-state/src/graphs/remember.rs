//! Recording behind a build.

use std::sync::Arc;
use std::time::Duration;

use nixery_manifest::Digest;
use nixery_storage::Storage;

use super::{RecordedGraph, record};
use crate::causes::causes;

/// After so long it is given up.
const MOST_TIME: Duration = Duration::from_secs(60);

/// Records what was in an image, in the background: a failure is logged, and an image without a
/// graph is as good.
pub async fn remember(storage: Arc<dyn Storage>, key: Digest, graph: RecordedGraph) {
    let image = graph.name.clone();
    let recording = record(&*storage, key, graph);
    let problem = match tokio::time::timeout(MOST_TIME, recording).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => match causes(&error) {
            none if none.is_empty() => error.to_string(),
            causes => causes,
        },
        Err(_) => "the store does not answer".to_owned(),
    };
    tracing::warn!(image, "the graph of an image is not recorded: {problem}");
}
