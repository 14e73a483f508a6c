//! The references of single store paths, whether or not the whole closure is known.

use super::nix_json::{self, RawGraph};
use super::{JsonKind, NodeId, ReferenceGraph};
use crate::json_error::JsonError;
use crate::store_path::{StorePathError, base_name_of, check_base_name};

/// The references of one store path. All names are valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathReferences<'a> {
    path: &'a str,
    base_name: &'a str,
    nar_size: Option<u64>,
    references: Vec<&'a str>,
}

impl<'a> PathReferences<'a> {
    /// Checks a store path and the base names of what it refers to.
    ///
    /// # Errors
    /// The path is not a store path, or a reference is not the base name of one.
    pub fn new(
        path: &'a str,
        nar_size: Option<u64>,
        references: Vec<&'a str>,
    ) -> Result<Self, StorePathError> {
        let base_name = base_name_of(path)?;
        for &reference in &references {
            check_base_name(reference).map_err(|rule| StorePathError::new(reference, rule))?;
        }
        Ok(Self {
            path,
            base_name,
            nar_size,
            references,
        })
    }

    /// Each path of a graph, in the order of its nodes.
    pub fn of_graph(graph: &'a ReferenceGraph) -> impl Iterator<Item = Self> {
        let name = |&id: &NodeId| graph.node(id).path.base_name();
        graph.iter().map(move |(id, node)| PathReferences {
            path: node.path.as_str(),
            base_name: node.path.base_name(),
            nar_size: Some(node.nar_size),
            references: graph.references(id).iter().map(name).collect(),
        })
    }

    /// The path.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// Hash and name of the path.
    pub fn base_name(&self) -> &'a str {
        self.base_name
    }

    /// Bytes of its NAR, if the source has the size.
    pub fn nar_size(&self) -> Option<u64> {
        self.nar_size
    }

    /// Hash and name of each path that it refers to. The path itself may be among them.
    pub fn references(&self) -> &[&'a str] {
        &self.references
    }
}

/// The output of `nix path-info --json` in any of its forms, with or without `--recursive`.
///
/// References need no entry of their own, unlike in a [`ReferenceGraph`].
#[derive(Debug)]
pub struct PathInfoJson<'a>(RawGraph<'a>);

impl<'a> PathInfoJson<'a> {
    /// Reads the JSON.
    ///
    /// # Errors
    /// The JSON has another form.
    pub fn parse(json: &'a [u8]) -> Result<Self, JsonError> {
        let raw = nix_json::read(json, JsonKind::PathInfo);
        raw.map(Self).map_err(JsonError::new)
    }

    /// The paths that are in the Nix store, in the order of the input.
    ///
    /// # Errors
    /// A path or reference is not a store path.
    pub fn paths(&self) -> impl Iterator<Item = Result<PathReferences<'_>, StorePathError>> {
        let raw = &self.0;
        let valid = raw.nodes.iter().enumerate().filter(|(_, node)| node.valid);
        valid.map(|(index, node)| {
            let path = raw.path(node);
            let base_name = base_name_of(path)?;
            let references = raw.references(index).map(base_name_of);
            Ok(PathReferences {
                path,
                base_name,
                nar_size: node.nar_size,
                references: references.collect::<Result<_, _>>()?,
            })
        })
    }
}
