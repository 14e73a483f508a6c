//! What one image may need at most.
//!
//! The limits are no part of any key: an image that was refused is built as soon as the limit is
//! raised, from the layers that are stored already.

use std::cmp::Reverse;

use nixery_core::{ByteSize, ImageName, ReferenceGraph};

use crate::config::BuilderConfig;
use crate::error::BuildError;

/// Store paths that are named in the error about a closure that is too large.
const PATHS_SHOWN: usize = 3;

impl BuilderConfig {
    /// Checks how many packages a name lists.
    ///
    /// # Errors
    /// [`BuildError::TooManyPackages`]
    pub(crate) fn check_packages(&self, name: &ImageName) -> Result<(), BuildError> {
        let listed = name.named_packages();
        match self.max_packages {
            Some(limit) if listed > limit.get() => {
                Err(BuildError::TooManyPackages { listed, limit })
            }
            _ => Ok(()),
        }
    }

    /// Checks the size of all store paths of an image, unpacked.
    ///
    /// # Errors
    /// [`BuildError::ClosureTooLarge`]
    pub(crate) fn check_closure(&self, graph: &ReferenceGraph) -> Result<(), BuildError> {
        let size = u64::try_from(graph.total_nar_size()).unwrap_or(u64::MAX);
        match self.max_closure_size {
            Some(limit) if ByteSize(size) > limit => Err(BuildError::ClosureTooLarge {
                size: ByteSize(size),
                limit,
                largest: largest_paths(graph),
            }),
            _ => Ok(()),
        }
    }

    /// Checks the size of the compressed layers of an image that are known so far.
    ///
    /// # Errors
    /// [`BuildError::ImageTooLarge`]
    pub(crate) fn check_layers(&self, bytes: u64) -> Result<(), BuildError> {
        match self.max_image_size {
            Some(limit) if ByteSize(bytes) > limit => Err(BuildError::ImageTooLarge {
                size: ByteSize(bytes),
                limit,
            }),
            _ => Ok(()),
        }
    }
}

/// Returns the names of the largest store paths with their sizes, the largest first.
fn largest_paths(graph: &ReferenceGraph) -> Vec<(String, ByteSize)> {
    let mut nodes: Vec<_> = graph.nodes().iter().collect();
    nodes.sort_by_key(|node| Reverse(node.nar_size));
    let largest = nodes.into_iter().take(PATHS_SHOWN);
    largest
        .map(|node| (node.path.name().to_owned(), ByteSize(node.nar_size)))
        .collect()
}
