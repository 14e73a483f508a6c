//! Reading what Nix writes about many store paths.

use std::error::Error;

use nixery_core::{
    GraphError, JsonError, PathInfoJson, PathReferences, ReferenceGraph, StorePath, StorePathError,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a description of store paths was refused.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The text should be the output of `nix path-info --json`, and is not.
    #[error("this is not the output of `nix path-info --json`")]
    PathInfo(#[source] JsonError),
    /// The text should be a reference graph, and is not.
    #[error("this is not a valid reference graph")]
    Graph(#[source] GraphError),
    /// A path or reference is not a store path.
    #[error("a reference cannot be used")]
    Path(#[from] StorePathError),
    /// The size of a path is missing or not a number.
    #[error("the NAR size of {path} is missing or not a whole number")]
    Size {
        /// The path.
        path: StorePath,
    },
    /// A narinfo file lacks a field.
    #[error("the narinfo {start:?} has no line `{field}:`")]
    NarInfo {
        /// The field.
        field: &'static str,
        /// The beginning of the text.
        start: String,
    },
    /// The text should be the state of an earlier run, and is not.
    #[error(
        "this is not the state of an earlier run of this command. Fix: delete it to start again"
    )]
    State(#[source] Box<dyn Error + Send + Sync>),
}

/// Gathers data from the references of many store paths, from any kind of description.
///
/// The gathered data can be saved and continued later: its JSON is the state.
pub trait ReferenceSink: Default + Serialize + DeserializeOwned {
    /// Whether a path without NAR size is an error.
    const NEEDS_SIZE: bool;

    /// Adds one path; all its names are valid. A path that was added before does not change.
    fn add_references(&mut self, path: &PathReferences<'_>);

    /// Returns whether a path with this hash was added.
    fn contains(&self, path: &StorePath) -> bool;

    /// Number of paths that were added.
    fn paths(&self) -> usize;

    /// Returns all data that a later run needs to continue. Equal data gives equal bytes.
    fn to_state(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and integers serialise to JSON")
    }

    /// Restores the data from the bytes of [`Self::to_state`].
    ///
    /// # Errors
    /// [`ReferenceError::State`]: the bytes are not a state of this sink.
    fn from_state(state: &[u8]) -> Result<Self, ReferenceError> {
        serde_json::from_slice(state).map_err(|error| ReferenceError::State(error.into()))
    }

    /// Adds every path of the graph.
    fn add_graph(&mut self, graph: &ReferenceGraph) {
        for path in PathReferences::of_graph(graph) {
            self.add_references(&path);
        }
    }

    /// Adds the output of `nix path-info --json` (any version, with or without `--recursive`).
    /// References need no entry of their own; paths that are not valid are skipped.
    ///
    /// # Errors
    /// The text has another form, a path is not a store path, or a required size is missing. Then
    /// nothing is added.
    fn add_path_info(&mut self, json: &[u8]) -> Result<(), ReferenceError> {
        let json = PathInfoJson::parse(json).map_err(ReferenceError::PathInfo)?;
        let paths = json.paths().collect::<Result<Vec<_>, _>>()?;
        let without_size = paths.iter().find(|path| path.nar_size().is_none());
        if let Some(path) = without_size.filter(|_| Self::NEEDS_SIZE) {
            let path = StorePath::parse(path.path())?;
            return Err(ReferenceError::Size { path });
        }
        for path in &paths {
            self.add_references(path);
        }
        Ok(())
    }

    /// Adds one narinfo file (Nix's binary cache format): its `StorePath`, `NarSize` and
    /// `References` lines.
    ///
    /// # Errors
    /// A line is missing or invalid. Then nothing is added.
    fn add_narinfo(&mut self, text: &str) -> Result<(), ReferenceError> {
        let field = |field: &'static str| {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            value.map(str::trim).ok_or_else(|| ReferenceError::NarInfo {
                field,
                start: text.chars().take(80).collect(),
            })
        };
        let path = StorePath::parse(field("StorePath")?)?;
        let references: Vec<&str> = field("References")?.split_whitespace().collect();
        let mut nar_size = None;
        if Self::NEEDS_SIZE {
            let size = field("NarSize")?.parse();
            nar_size = Some(size.map_err(|_| ReferenceError::Size { path: path.clone() })?);
        }
        self.add_references(&PathReferences::new(path.as_str(), nar_size, references)?);
        Ok(())
    }
}
