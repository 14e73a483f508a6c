//! Reading what Nix writes about many store paths, for whoever gathers something from it.

use nixery_core::{
    JsonError, PathInfoJson, PathReferences, ReferenceGraph, StorePath, StorePathError,
};

/// Why what describes store paths was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// What should be the output of `nix path-info --json` is not.
    #[error("this is not the output of 'nix path-info --json'")]
    PathInfo(#[source] JsonError),
    /// A path or reference is not one.
    #[error("a reference cannot be used")]
    Path(#[from] StorePathError),
    /// The size of a path is missing or none.
    #[error("the NAR size of {path} is missing or no whole number")]
    Size {
        /// The path.
        path: StorePath,
    },
    /// A narinfo file lacks a field.
    #[error("the narinfo {start:?} has no line '{field}:'")]
    NarInfo {
        /// The field.
        field: &'static str,
        /// How the text begins.
        start: String,
    },
    /// What should be kept of an earlier run is something else.
    #[error("this is not what an earlier run of this command kept: start anew")]
    State(#[source] serde_json::Error),
}

/// Gathers something from the references of many store paths, whatever describes them.
///
/// How it is gathered can be kept and gone on with: [`Self::to_state`], [`Self::from_state`].
pub trait ReferenceSink: Default {
    /// Whether a path without NAR size is an error.
    const NEEDS_SIZE: bool;

    /// Takes one path; all its names are valid. What is known of a path that it has already stays.
    fn add_references(&mut self, path: &PathReferences<'_>);

    /// Whether it has this path, told by its hash.
    fn contains(&self, path: &StorePath) -> bool;

    /// Number of paths that it has.
    fn paths(&self) -> usize;

    /// All that is needed to go on later, in one fixed byte sequence.
    fn to_state(&self) -> Vec<u8>;

    /// Goes on from what [`Self::to_state`] gave.
    ///
    /// # Errors
    /// [`ReferenceError::State`] where it is something else.
    fn from_state(state: &[u8]) -> Result<Self, ReferenceError>;

    /// Takes every path of the graph.
    fn add_graph(&mut self, graph: &ReferenceGraph) {
        for path in PathReferences::of_graph(graph) {
            self.add_references(&path);
        }
    }

    /// Takes what `nix path-info --json` prints (any version, with or without `--recursive`); references
    /// need no entry of their own, paths that are not valid are passed over.
    ///
    /// # Errors
    /// Where it is not that, or a path is not one, or a size is needed and missing; then nothing is taken.
    fn add_path_info(&mut self, json: &[u8]) -> Result<(), ReferenceError> {
        let json = PathInfoJson::parse(json).map_err(ReferenceError::PathInfo)?;
        let checked = json.paths().collect::<Result<Vec<_>, _>>()?;
        if Self::NEEDS_SIZE
            && let Some(path) = checked.iter().find(|path| path.nar_size().is_none())
        {
            let path = StorePath::parse(path.path())?;
            return Err(ReferenceError::Size { path });
        }
        for path in &checked {
            self.add_references(path);
        }
        Ok(())
    }

    /// Takes one narinfo file (Nix's binary cache format): its `StorePath`, `NarSize` and `References` lines.
    ///
    /// # Errors
    /// Where a line is missing or does not hold what it should; then nothing is taken.
    fn add_narinfo(&mut self, text: &str) -> Result<(), ReferenceError> {
        let field = |name: &'static str| {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let missing = || ReferenceError::NarInfo {
                field: name,
                start: text.chars().take(80).collect(),
            };
            value.map(str::trim).ok_or_else(missing)
        };
        let path = StorePath::parse(field("StorePath")?)?;
        let references: Vec<&str> = field("References")?.split_whitespace().collect();
        let nar_size = if Self::NEEDS_SIZE {
            let size = field("NarSize")?.parse();
            Some(size.map_err(|_| ReferenceError::Size { path: path.clone() })?)
        } else {
            None
        };
        self.add_references(&PathReferences::new(path.as_str(), nar_size, references)?);
        Ok(())
    }
}
