//! The reference graphs of built images, under `graphs/`.
//!
//! A graph is written when its image is built, and is kept longer than the image, see
//! [`gc`](crate::gc). Layer plans are made from graphs, and recorded pulls are replayed with them.
//! Serving an image does not need its graph, so a graph may be missing.
//!
//! ```
//! use nixery_state::graphs;
//! use nixery_storage::MemoryStorage;
//!
//! # #[tokio::main] async fn main() -> Result<(), graphs::GraphsError> {
//! let storage = MemoryStorage::new();
//! for entry in graphs::list(&storage).await? {
//!     if let Some(image) = graphs::read(&storage, entry.key).await? {
//!         println!("{}: {} paths", image.name, image.graph.len());
//!     }
//! }
//! # Ok(()) }
//! ```

mod file;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use nixery_core::{Architecture, ReferenceGraph, StorePath};
use nixery_manifest::Digest;
use nixery_storage::{Contents, Folder, Key, PutMode, Storage, StorageError, error_causes};

use crate::gc::{InUse, Retention};
use crate::record::LayerSummary;

pub use file::GraphFileError;

use file::MAX_FILE_BYTES;

/// The reference graphs of built images, each with the name of its record.
pub const GRAPHS: Folder = Folder::new("graphs", Contents::Binary);

/// How long [`remember`] tries to store a graph.
const REMEMBER_TIMEOUT: Duration = Duration::from_secs(60);

/// The contents of an image when it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedGraph {
    /// The image's canonical name: `git/shell`.
    pub name: String,
    /// Every package in it, sorted.
    pub packages: Vec<String>,
    /// The architecture that it runs on.
    pub architecture: Architecture,
    /// Its store paths, without NAR hashes; the roots are those of the packages.
    pub graph: ReferenceGraph,
    /// For each path, its share of the compressed bytes of its layer, by NAR size.
    pub compressed_sizes: Vec<u64>,
}

/// How long graphs are kept: as long as their image is cached, and at least 90 days.
pub const KEPT: Retention = Retention::new(
    GRAPHS,
    Duration::from_secs(90 * 24 * 60 * 60),
    // Each has some kilobytes.
    10_000,
    InUse::OfCachedImages,
);

/// A graph in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphEntry {
    /// The cache key of the image's manifest, for [`read`].
    pub key: Digest,
    /// When it was written, by the store's clock; `None` if the store has no times.
    pub written: Option<SystemTime>,
    /// Bytes of its file.
    pub size: u64,
}

/// Why recorded graphs cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphsError {
    /// The store failed.
    #[error("recorded graphs cannot be {doing}")]
    Storage {
        /// The failed operation: "listed", "read", "stored".
        doing: &'static str,
        /// The error of the store.
        #[source]
        source: StorageError,
    },
    /// A graph is damaged, or has another version. It may be deleted, and is after 90 days.
    #[error("{key} is not a recorded graph that this version can read")]
    File {
        /// The object.
        key: Key,
        /// What is wrong with it.
        #[source]
        source: GraphFileError,
    },
    /// The graph is too large.
    #[error("the graph of {image} cannot be recorded")]
    Unwritable {
        /// The image's name.
        image: String,
        /// Why.
        #[source]
        source: GraphFileError,
    },
}

/// Returns all recorded graphs, newest first.
///
/// # Errors
/// The store failed.
pub async fn list(storage: &dyn Storage) -> Result<Vec<GraphEntry>, GraphsError> {
    let failed = |source| GraphsError::Storage {
        doing: "listed",
        source,
    };
    let mut listing = storage.list(GRAPHS).await.map_err(failed)?;
    let mut entries = Vec::new();
    while let Some(entry) = listing.try_next().await.map_err(failed)? {
        if let Some(key) = entry.key.and_then(|key| key.digest()) {
            let (written, size) = (entry.stat.modified, entry.stat.size);
            entries.push(GraphEntry { key, written, size });
        }
    }
    // The key makes the order definite.
    entries.sort_unstable_by_key(|entry| (Reverse(entry.written), entry.key));
    Ok(entries)
}

/// Returns the graph of the image whose manifest has this cache key; `None` if none is recorded.
///
/// # Errors
/// The store failed, or the object is not a graph.
pub async fn read(
    storage: &dyn Storage,
    key: Digest,
) -> Result<Option<RecordedGraph>, GraphsError> {
    let key = Key::new(GRAPHS, key);
    let bytes = match storage.get_bytes(&key, MAX_FILE_BYTES).await {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => Ok(bytes),
        Err(StorageError::TooLarge { .. }) => Err(GraphFileError::TooLarge),
        // An incomplete object must not prevent reading the other graphs.
        Err(StorageError::Truncated { .. }) => Err(GraphFileError::Truncated),
        Err(source) => {
            let doing = "read";
            return Err(GraphsError::Storage { doing, source });
        }
    };
    // A large graph takes a while.
    let read = tokio::task::spawn_blocking(move || RecordedGraph::from_bytes(&bytes?));
    let read = read.await.unwrap_or(Err(GraphFileError::Interrupted));
    read.map(Some)
        .map_err(|source| GraphsError::File { key, source })
}

impl RecordedGraph {
    /// The graph of an image, and the layers that it was built into.
    pub fn new(
        name: String,
        packages: Vec<String>,
        architecture: Architecture,
        layers: &[LayerSummary],
        graph: ReferenceGraph,
    ) -> Self {
        Self {
            name,
            packages,
            architecture,
            compressed_sizes: compressed_sizes(layers, &graph),
            graph,
        }
    }
}

/// Divides the compressed bytes of each layer among its paths by NAR size, without remainder.
fn compressed_sizes(layers: &[LayerSummary], graph: &ReferenceGraph) -> Vec<u64> {
    let nodes = graph.nodes();
    let mut sizes = vec![0; nodes.len()];
    let indices: HashMap<&StorePath, usize> = (0..)
        .zip(nodes)
        .map(|(index, node)| (&node.path, index))
        .collect();
    for layer in layers {
        let members: Vec<usize> = layer
            .paths
            .iter()
            .filter_map(|path| indices.get(path).copied())
            .collect();
        // Bounds that every NAR is within, so that no sum is 0 and no product overflows.
        let nar_size = |&index: &usize| u128::from(nodes[index].nar_size.clamp(1, 1 << 40));
        let all: u128 = members.iter().map(nar_size).sum();
        let (mut before, mut given) = (0, 0);
        for index in &members {
            before += nar_size(index);
            let until = u128::from(layer.size) * before / all;
            // At most the layer's size.
            sizes[*index] = (until - given) as u64;
            given = until;
        }
    }
    sizes
}

/// Records the graph of the image whose manifest has this cache key, replacing an older one.
///
/// # Errors
/// The store failed, or the graph is larger than [`read`] takes.
pub async fn record(
    storage: &dyn Storage,
    key: Digest,
    graph: RecordedGraph,
) -> Result<(), GraphsError> {
    let image = graph.name.clone();
    let bytes = tokio::task::spawn_blocking(move || graph.to_bytes()).await;
    let bytes = bytes.unwrap_or(Err(GraphFileError::Interrupted));
    let bytes = bytes.map_err(|source| GraphsError::Unwritable { image, source })?;
    let (key, bytes) = (Key::new(GRAPHS, key), Bytes::from(bytes));
    let stored = storage.put(&key, bytes, PutMode::Replace).await;
    stored.map(drop).map_err(|source| GraphsError::Storage {
        doing: "stored",
        source,
    })
}

/// Records the graph of an image in the background. Logs a failure: an image works without its
/// graph.
pub async fn remember(storage: Arc<dyn Storage>, key: Digest, graph: RecordedGraph) {
    let image = graph.name.clone();
    let recording = record(&*storage, key, graph);
    let problem = match tokio::time::timeout(REMEMBER_TIMEOUT, recording).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error_causes(&error).unwrap_or_else(|| error.to_string()),
        Err(_) => "the store does not answer".to_owned(),
    };
    tracing::warn!(image, "the graph of an image is not recorded: {problem}");
}
