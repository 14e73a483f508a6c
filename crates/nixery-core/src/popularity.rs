//! Popularity of store paths.
use crate::graph::ReferenceGraph;
use crate::store_path::StorePath;
use nixery_manifest::Digest;

/// How many packages of a package set refer to each name.
#[derive(Debug, Clone, Default)]
pub struct Popularity {}

/// Why popularity data was refused.
#[derive(Debug, thiserror::Error)]
pub enum PopularityError {
    /// Not a JSON object of counts.
    #[error("popularity data must be a JSON object of names and counts")]
    Malformed(#[source] serde_json::Error),
}

#[allow(clippy::unimplemented)]
impl Popularity {
    /// Reads a JSON object of names and counts.
    ///
    /// # Errors
    /// Where it is not one.
    pub fn from_json(json: &[u8]) -> Result<Self, PopularityError> {
        let _ = json;
        unimplemented!()
    }
    /// The popularity of a path.
    #[must_use]
    pub fn get(&self, path: &StorePath) -> u64 {
        let _ = path;
        unimplemented!()
    }
    /// A digest of the content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        unimplemented!()
    }
    /// Number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        0
    }
    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Counts references.
#[derive(Debug, Clone, Default)]
pub struct PopularityCounter {}

#[allow(clippy::unimplemented)]
impl PopularityCounter {
    /// Counts a graph.
    pub fn add_graph(&mut self, graph: &ReferenceGraph) {
        let _ = graph;
        unimplemented!()
    }
    /// Counts the output of `nix path-info --json`.
    ///
    /// # Errors
    /// Where it is not that.
    pub fn add_path_info(&mut self, json: &[u8]) -> Result<(), PopularityError> {
        let _ = json;
        unimplemented!()
    }
    /// Counts one narinfo file.
    ///
    /// # Errors
    /// Where it is not one.
    pub fn add_narinfo(&mut self, text: &str) -> Result<(), PopularityError> {
        let _ = text;
        unimplemented!()
    }
    /// Whether the references of this path have been counted.
    #[must_use]
    pub fn contains(&self, path: &StorePath) -> bool {
        let _ = path;
        unimplemented!()
    }
    /// The counts as sorted JSON, as [`Popularity::from_json`] reads it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        unimplemented!()
    }
    /// All that is needed to go on counting later.
    #[must_use]
    pub fn to_state(&self) -> Vec<u8> {
        unimplemented!()
    }
    /// Goes on from [`Self::to_state`].
    ///
    /// # Errors
    /// Where it is not such a state.
    pub fn from_state(state: &[u8]) -> Result<Self, PopularityError> {
        let _ = state;
        unimplemented!()
    }
}
