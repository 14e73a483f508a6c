//! Reading what Nix writes about many store paths, for whoever gathers something from it.

use crate::graph::ReferenceGraph;
use crate::graph::raw::RawGraph;
use crate::popularity::PopularityError;
use crate::store_path::{StorePath, StorePathError, check_base_name};

/// What one store path refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathReferences<'a> {
    /// Hash and name of the path.
    pub base_name: &'a str,
    /// Bytes of its NAR, where the source tells.
    pub nar_size: Option<u64>,
    /// Hash and name of each path that it refers to, itself perhaps among them.
    pub references: Vec<&'a str>,
}

/// Gathers something from the references of many store paths, whatever describes them.
///
/// How it is gathered can be kept and gone on with: [`Self::to_state`], [`Self::from_state`].
pub trait ReferenceSink: Default {
    /// Whether a path without NAR size is an error.
    const NEEDS_SIZE: bool;

    /// Takes one path; all its names are valid. A path that it has already changes nothing.
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
    /// [`PopularityError::State`] where it is something else.
    fn from_state(state: &[u8]) -> Result<Self, PopularityError>;

    /// Takes every path of the graph.
    fn add_graph(&mut self, graph: &ReferenceGraph) {
        for (index, node) in graph.nodes().iter().enumerate() {
            let name = |&index: &u32| graph.nodes()[index as usize].path.base_name();
            self.add_references(&PathReferences {
                base_name: node.path.base_name(),
                nar_size: Some(node.nar_size),
                references: graph.references(index).iter().map(name).collect(),
            });
        }
    }

    /// Takes what `nix path-info --json` prints (any version, with or without `--recursive`); references
    /// need no entry of their own, paths that are not valid are passed over.
    ///
    /// # Errors
    /// Where it is not that, or a path is not one, or a size is needed and missing; then nothing is taken.
    fn add_path_info(&mut self, json: &[u8]) -> Result<(), PopularityError> {
        let raw = RawGraph::path_info(json).map_err(PopularityError::PathInfo)?;
        let mut checked = Vec::with_capacity(raw.nodes.len());
        let valid = raw.nodes.iter().enumerate().filter(|(_, node)| node.valid);
        for (index, node) in valid {
            let path = StorePath::parse(raw.path(node))?;
            let references = raw.references(index).map(StorePath::parse);
            let references: Vec<StorePath> = references.collect::<Result<_, _>>()?;
            if Self::NEEDS_SIZE && node.nar_size.is_none() {
                return Err(PopularityError::Size { path });
            }
            checked.push((path, node.nar_size, references));
        }
        for (path, nar_size, references) in &checked {
            self.add_references(&PathReferences {
                base_name: path.base_name(),
                nar_size: *nar_size,
                references: references.iter().map(StorePath::base_name).collect(),
            });
        }
        Ok(())
    }

    /// Takes one narinfo file (Nix's binary cache format): its `StorePath`, `NarSize` and `References` lines.
    ///
    /// # Errors
    /// Where a line is missing or does not hold what it should; then nothing is taken.
    fn add_narinfo(&mut self, text: &str) -> Result<(), PopularityError> {
        let field = |name: &'static str| {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let missing = || PopularityError::NarInfo {
                field: name,
                start: text.chars().take(80).collect(),
            };
            value.map(str::trim).ok_or_else(missing)
        };
        let path = StorePath::parse(field("StorePath")?)?;
        let references: Vec<&str> = field("References")?.split_whitespace().collect();
        for &reference in &references {
            check_base_name(reference).map_err(|rule| StorePathError {
                path: reference.chars().take(300).collect(),
                rule,
            })?;
        }
        let nar_size = if Self::NEEDS_SIZE {
            let size = field("NarSize")?.parse();
            Some(size.map_err(|_| PopularityError::Size { path: path.clone() })?)
        } else {
            None
        };
        self.add_references(&PathReferences {
            base_name: path.base_name(),
            nar_size,
            references,
        });
        Ok(())
    }
}
