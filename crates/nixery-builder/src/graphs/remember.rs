//! Recording behind a build.

use std::sync::Arc;
use std::time::Duration;

use nixery_core::ReferenceGraph;
use nixery_storage::Storage;

use super::{RecordedGraph, record};
use crate::builder::causes;
use crate::image::Image;

/// After so long it is given up.
const MOST_TIME: Duration = Duration::from_secs(60);

/// Records what was in an image. Nobody waits for it, and an image without it is as good.
pub(crate) async fn remember(storage: Arc<dyn Storage>, image: Arc<Image>, graph: ReferenceGraph) {
    let graph = RecordedGraph::new(&image, graph);
    let recording = record(&*storage, image.key, graph);
    let problem = match tokio::time::timeout(MOST_TIME, recording).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => match causes(&error) {
            none if none.is_empty() => error.to_string(),
            causes => causes,
        },
        Err(_) => "the store does not answer".to_owned(),
    };
    tracing::warn!(image = %image.name, "the graph of an image is not recorded: {problem}");
}
