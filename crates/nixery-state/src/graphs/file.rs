//! The file of a recorded graph: JSON, compressed with zstd.
//!
//! ```text
//! { "version": 1, "name": "git/htop", "packages": ["cacert", "git", …], "architecture": "amd64",
//!   "roots": [0, 17, …],
//!   "paths": [["/nix/store/…-bash-5.2", NAR size, compressed size, [references]], …] }
//! ```
//!
//! Paths are sorted; roots and references are indices into that list. Further fields are ignored.
//! The file of 500 paths has about 10 kB.

use std::io::{Read, Write};

use nixery_core::{Architecture, GraphError, ListedPath, NodeId, ReferenceGraph, StorePath};
use serde::{Deserialize, Serialize};

use super::RecordedGraph;
use crate::versioned::{self, VersionedError};

/// Most bytes of a file; the file of 50,000 paths has 2 MB.
pub(super) const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most bytes of its text; the text of 50,000 paths has 10 MB.
const MAX_TEXT_BYTES: u64 = 64 << 20;

const VERSION: u32 = 1;
/// High, as each image is written once and in the background.
const LEVEL: i32 = 9;

/// What is wrong with a graph's file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphFileError {
    /// It is not compressed with zstd, or is incomplete.
    #[error("it is damaged")]
    Damaged(#[source] std::io::Error),
    /// The store returned fewer bytes than it had announced.
    #[error("it is incomplete")]
    Truncated,
    /// It would take too much memory.
    #[error("it is larger than the graph of any image")]
    TooLarge,
    /// Its text is not a record of this version.
    #[error(transparent)]
    Record(#[from] VersionedError),
    /// Its paths are not sorted.
    #[error("its paths are not sorted")]
    Order,
    /// Its paths are not a reference graph.
    #[error("it is not a reference graph")]
    Graph(#[from] GraphError),
    /// Reading or writing ended early, because the program is stopping or has a defect.
    #[error("reading or writing it was interrupted")]
    Interrupted,
}

/// The JSON. `T` is a path: borrowed for writing, owned for reading, as JSON may escape characters.
#[derive(Serialize, Deserialize)]
struct File<T> {
    name: String,
    packages: Vec<String>,
    architecture: Architecture,
    roots: Vec<u32>,
    /// Path, NAR size, compressed size, references.
    paths: Vec<(T, u64, u64, Vec<u32>)>,
}

impl RecordedGraph {
    /// Returns the file of the graph: equal graphs give equal bytes.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, GraphFileError> {
        let indices = |ids: &[NodeId]| ids.iter().map(|id| id.get()).collect();
        let sizes = self.graph.iter().zip(&self.compressed_sizes);
        let paths = sizes.map(|((id, node), compressed)| {
            let references = indices(self.graph.references(id));
            (node.path.as_str(), node.nar_size, *compressed, references)
        });
        let file = File {
            name: self.name.clone(),
            packages: self.packages.clone(),
            architecture: self.architecture,
            roots: indices(self.graph.roots()),
            paths: paths.collect(),
        };
        let text = versioned::to_bytes(VERSION, &file);
        let compress = || {
            let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
            // A known size keeps zstd's tables small.
            encoder.set_pledged_src_size(Some(text.len() as u64))?;
            encoder.include_checksum(true)?;
            encoder.write_all(&text)?;
            encoder.finish()
        };
        let bytes = compress().map_err(GraphFileError::Damaged)?;
        // A file that [`from_bytes`](Self::from_bytes) would refuse is not written.
        if text.len() as u64 > MAX_TEXT_BYTES || bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(GraphFileError::TooLarge);
        }
        Ok(bytes)
    }

    /// Reads a file, which may come from anywhere.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, GraphFileError> {
        let file: File<String> = versioned::from_bytes(VERSION, &decompress(bytes)?)?;
        let (graph, ids) = graph(&file)?;
        if !ids.is_sorted() {
            return Err(GraphFileError::Order);
        }
        Ok(Self {
            name: file.name,
            packages: file.packages,
            architecture: file.architecture,
            compressed_sizes: file.paths.iter().map(|(_, _, size, _)| *size).collect(),
            graph,
        })
    }
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>, GraphFileError> {
    let mut text = Vec::new();
    zstd::Decoder::with_buffer(bytes)
        .and_then(|decoder| decoder.take(MAX_TEXT_BYTES + 1).read_to_end(&mut text))
        .map_err(GraphFileError::Damaged)?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(GraphFileError::TooLarge);
    }
    Ok(text)
}

/// Returns the file's graph, and the ID of each of its paths.
fn graph(file: &File<String>) -> Result<(ReferenceGraph, Vec<NodeId>), GraphFileError> {
    let mut list = Vec::with_capacity(file.paths.len());
    for (path, nar_size, _, references) in &file.paths {
        list.push(ListedPath {
            path: StorePath::parse(path).map_err(GraphError::Path)?,
            nar_size: *nar_size,
            nar_hash: None,
            references,
        });
    }
    Ok(ReferenceGraph::from_list(&list, &file.roots)?)
}
