//! What the images of a store held: the reference graph of each that was built, under `graphs/`.
//!
//! A graph is written when its image is built and outlives it, see [`gc`](crate::gc). It is of use to make
//! plans from and to replay pulls with; nothing that is served needs it, so it may be missing.
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
mod remember;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use nixery_core::{Architecture, ReferenceGraph, StorePath};
use nixery_manifest::Digest;
use nixery_storage::{Contents, Folder, Key, PutMode, Storage, StorageError};

use crate::gc::{InUse, Retention};
use crate::record::LayerSummary;

pub use remember::remember;

pub use file::GraphFileError;
use file::MAX_FILE_BYTES;

/// The reference graphs of built images, each named as its record.
pub const GRAPHS: Folder = Folder::new("graphs", Contents::Binary);

/// What an image held when it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedGraph {
    /// The image's canonical name: `git/shell`.
    pub name: String,
    /// Every package in it, sorted.
    pub packages: Vec<String>,
    /// What it runs on.
    pub architecture: Architecture,
    /// Its store paths; the roots are those of the packages. Without NAR hashes.
    pub graph: ReferenceGraph,
    /// For each path its share of the compressed bytes of its layer, by NAR size.
    pub compressed_sizes: Vec<u64>,
}

/// How long graphs are remembered: those of cached images as long as these, others for 90 days.
pub const KEPT: Retention = Retention {
    folder: GRAPHS,
    kept_for: Duration::from_secs(90 * 24 * 60 * 60),
    // Each has some kilobytes.
    limit: 10_000,
    in_use: InUse::OfCachedImages,
};

/// A graph in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphEntry {
    /// The cache key of the image's manifest, to [`read`] it by.
    pub key: Digest,
    /// When it was written, by the store's clock; `None` where the store knows no times.
    pub written: Option<SystemTime>,
    /// Bytes of its file.
    pub size: u64,
}

/// Why recorded graphs cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GraphsError {
    /// The store failed.
    #[error("recorded graphs cannot be {doing}")]
    Storage {
        /// What was to be done: "listed", "read", "stored".
        doing: &'static str,
        /// The store's reason.
        #[source]
        source: StorageError,
    },
    /// One of them is damaged, or of another version. It can be deleted, and is after 90 days.
    #[error("{key} is not a recorded graph that this version can read")]
    File {
        /// The object.
        key: Key,
        /// What is wrong with it.
        #[source]
        source: GraphFileError,
    },
    /// It cannot be written: it is too large.
    #[error("the graph of {image} cannot be recorded")]
    Unwritable {
        /// The image's name.
        image: String,
        /// Why.
        #[source]
        source: GraphFileError,
    },
}

/// All recorded graphs, the newest first.
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
    // The key makes the order certain.
    entries.sort_unstable_by_key(|entry| (Reverse(entry.written), entry.key));
    Ok(entries)
}

/// The graph of the image whose manifest has this cache key; `None` where none is recorded.
///
/// # Errors
/// The store failed, or what it has is no graph.
pub async fn read(
    storage: &dyn Storage,
    key: Digest,
) -> Result<Option<RecordedGraph>, GraphsError> {
    let key = Key::new(GRAPHS, key);
    let bytes = match storage.get_bytes(&key, MAX_FILE_BYTES).await {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => bytes,
        Err(StorageError::TooLarge { .. }) => {
            let source = GraphFileError::TooLarge;
            return Err(GraphsError::File { key, source });
        }
        // One that is cut short must not keep all the others from being read.
        Err(StorageError::Truncated { .. }) => {
            let source = GraphFileError::Truncated;
            return Err(GraphsError::File { key, source });
        }
        Err(source) => {
            let doing = "read";
            return Err(GraphsError::Storage { doing, source });
        }
    };
    // A large one takes a while.
    let read = tokio::task::spawn_blocking(move || RecordedGraph::from_bytes(&bytes));
    let read = read.await.unwrap_or(Err(GraphFileError::Broken));
    read.map(Some)
        .map_err(|source| GraphsError::File { key, source })
}

impl RecordedGraph {
    /// Of a graph and the layers that were built of it.
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

/// Each layer's compressed bytes, divided among its paths by NAR size, without remainder.
fn compressed_sizes(layers: &[LayerSummary], graph: &ReferenceGraph) -> Vec<u64> {
    let nodes = graph.nodes();
    let mut sizes = vec![0; nodes.len()];
    let places: HashMap<&StorePath, usize> = (0..)
        .zip(nodes)
        .map(|(place, node)| (&node.path, place))
        .collect();
    for layer in layers {
        let members: Vec<usize> = layer
            .paths
            .iter()
            .filter_map(|path| places.get(path).copied())
            .collect();
        // Within bounds that no NAR is out of, so that no sum is 0 and no product too large.
        let nar_size = |&place: &usize| u128::from(nodes[place].nar_size.clamp(1, 1 << 40));
        let all: u128 = members.iter().map(nar_size).sum();
        let (mut before, mut given) = (0, 0);
        for place in &members {
            before += nar_size(place);
            let until = u128::from(layer.size) * before / all;
            // At most the layer's size.
            sizes[*place] = (until - given) as u64;
            given = until;
        }
    }
    sizes
}

/// Records the graph of the image whose manifest has this cache key, over one that is there. Builders do it for
/// each image that they build.
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
    let bytes = bytes.unwrap_or(Err(GraphFileError::Broken));
    let bytes = bytes.map_err(|source| GraphsError::Unwritable { image, source })?;
    let (key, bytes) = (Key::new(GRAPHS, key), Bytes::from(bytes));
    let stored = storage.put(&key, bytes, PutMode::Replace).await;
    stored.map(drop).map_err(|source| GraphsError::Storage {
        doing: "stored",
        source,
    })
}
