//! The file of a recorded graph: JSON, compressed with zstd.
//!
//! ```text
//! { "version": 1, "name": "git/htop", "packages": ["cacert", "git", …], "architecture": "amd64",
//!   "roots": [0, 17, …],
//!   "paths": [["/nix/store/…-bash-5.2", NAR size, compressed size, [references]], …] }
//! ```
//!
//! Paths are sorted, roots and references are places in that list. Further fields are passed over. A graph of
//! 500 paths takes some 10 kB.

use std::io::{Read, Write};

use nixery_core::{Architecture, GraphError, ListedPath, NodeId, ReferenceGraph, StorePath};
use serde::{Deserialize, Serialize};

use super::RecordedGraph;
use crate::versioned::{self, VersionedError};

/// Most bytes of a file; that of 50,000 paths has 2 MB.
pub(super) const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most bytes of its text; that of 50,000 paths has 10 MB.
const MAX_TEXT_BYTES: u64 = 64 << 20;

const VERSION: u32 = 1;
/// Written in the background, once for an image.
const LEVEL: i32 = 9;

/// What is wrong with a graph's file.
#[derive(Debug, thiserror::Error)]
pub enum GraphFileError {
    /// It is not what zstd writes, or cut short.
    #[error("it is damaged")]
    Damaged(#[source] std::io::Error),
    /// The store has less of it than it says.
    #[error("it is cut short")]
    Truncated,
    /// It would take too much memory.
    #[error("it is larger than any image's")]
    TooLarge,
    /// Its text is something else.
    #[error("its text is not the JSON that is expected")]
    Json(#[source] serde_json::Error),
    /// Another version of this program wrote it.
    #[error("it has version {found}, and this program reads version {VERSION}")]
    Version {
        /// Its version.
        found: u64,
    },
    /// Its paths are not sorted.
    #[error("its paths are not in order")]
    Order,
    /// Its paths are none.
    #[error("its graph is none")]
    Graph(#[source] GraphError),
    /// Reading or writing it ended early, because the program ends or is broken.
    #[error("reading or writing it broke off")]
    Broken,
}

/// `T` is a path: borrowed to be written, owned to be read, as JSON may escape characters.
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
    /// The graph as a file: equal graphs give equal bytes.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, GraphFileError> {
        let places = |ids: &[NodeId]| ids.iter().map(|id| id.get()).collect();
        let sizes = self.graph.iter().zip(&self.compressed_sizes);
        let paths = sizes.map(|((id, node), compressed)| {
            let references = places(self.graph.references(id));
            (node.path.as_str(), node.nar_size, *compressed, references)
        });
        let file = File {
            name: self.name.clone(),
            packages: self.packages.clone(),
            architecture: self.architecture,
            roots: places(self.graph.roots()),
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
        // What nobody would read is not written.
        if text.len() as u64 > MAX_TEXT_BYTES || bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(GraphFileError::TooLarge);
        }
        Ok(bytes)
    }

    /// Reads a file, whoever wrote it.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, GraphFileError> {
        let text = decompress(bytes)?;
        let file: File<String> = match versioned::from_bytes(VERSION, &text) {
            Ok(file) => file,
            Err(VersionedError::Json(error)) => return Err(GraphFileError::Json(error)),
            Err(VersionedError::Version { found }) => {
                return Err(GraphFileError::Version { found });
            }
        };
        drop(text);
        let (graph, places) = graph(&file)?;
        if !places.is_sorted() {
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
    let decoder = zstd::Decoder::with_buffer(bytes).map_err(GraphFileError::Damaged)?;
    let mut text = Vec::new();
    let mut decoder = decoder.take(MAX_TEXT_BYTES + 1);
    decoder
        .read_to_end(&mut text)
        .map_err(GraphFileError::Damaged)?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(GraphFileError::TooLarge);
    }
    Ok(text)
}

/// The file's graph, and the index of each of its paths.
fn graph(file: &File<String>) -> Result<(ReferenceGraph, Vec<NodeId>), GraphFileError> {
    let mut list = Vec::with_capacity(file.paths.len());
    for (path, nar_size, _, references) in &file.paths {
        let path = StorePath::parse(path)
            .map_err(GraphError::Path)
            .map_err(GraphFileError::Graph)?;
        list.push(ListedPath {
            path,
            nar_size: *nar_size,
            nar_hash: None,
            references,
        });
    }
    ReferenceGraph::from_list(&list, &file.roots).map_err(GraphFileError::Graph)
}
