//! The numbers of a graph's paths.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A path of a [`ReferenceGraph`](crate::ReferenceGraph): its place among the paths of that graph,
/// which are sorted. It has no meaning in another graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(u32);

impl NodeId {
    /// The node at a place, counted from 0. A graph has fewer than 2^32 nodes.
    #[must_use]
    pub const fn new(place: u32) -> Self {
        Self(place)
    }

    /// The place as a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The place as an index into a list that has an element for each node.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The plain number, so that lists of nodes are readable.
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
