//! Which of its two kinds of JSON Nix wrote.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::de::IgnoredAny;

use super::{GraphError, ReferenceGraph};
use crate::store_path::StorePath;

/// The two kinds of JSON in which Nix describes closures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    /// The structured attributes of `exportReferencesGraph`, which [`ReferenceGraph::parse`] reads.
    Graph,
    /// The output of `nix path-info --json`, which [`ReferenceGraph::from_path_info`] reads.
    PathInfo,
}

impl JsonKind {
    /// The kind that the outermost keys show; the rest may still be invalid. `None` for anything but a
    /// JSON array or object.
    #[must_use]
    pub fn of(json: &[u8]) -> Option<Self> {
        let path_info = |key: &str| key.starts_with('/') || key == "info";
        let graph = |key: &str| matches!(key, "exportReferencesGraph" | "graph");
        match json.trim_ascii_start().first()? {
            b'[' => Some(Self::PathInfo),
            b'{' => match serde_json::from_slice::<HashMap<Cow<'_, str>, IgnoredAny>>(json) {
                Ok(keys) if keys.keys().any(|key| graph(key)) => Some(Self::Graph),
                // A map keyed by path, empty for no paths, or version 2 of it.
                Ok(keys) => (keys.is_empty() || keys.keys().any(|key| path_info(key)))
                    .then_some(Self::PathInfo),
                // Invalid JSON: reading it as a graph reports where.
                Err(_) => Some(Self::Graph),
            },
            _ => None,
        }
    }
}

impl ReferenceGraph {
    /// Reads a graph in any form that Nix writes: the structured attribute `exportReferencesGraph`
    /// ([`Self::parse`]), or the output of `nix path-info --json --recursive` of any version
    /// ([`Self::from_path_info`]).
    ///
    /// Path information does not say what the roots are. Without `roots`, they are the paths that no other
    /// path refers to. A graph names its roots itself.
    ///
    /// # Errors
    /// What [`GraphError`] lists: the JSON is of neither form, is invalid, or lacks a path that is referred to;
    /// or `roots` are given for a graph that names its own.
    pub fn from_json(json: &[u8], roots: &[StorePath]) -> Result<Self, GraphError> {
        match JsonKind::of(json) {
            Some(JsonKind::Graph) if roots.is_empty() => Self::parse(json),
            Some(JsonKind::Graph) => Err(GraphError::RootsNotAllowed),
            Some(JsonKind::PathInfo) => {
                let mut graph = Self::from_path_info(json, roots)?;
                if roots.is_empty() {
                    graph.roots = graph.entry_points();
                }
                Ok(graph)
            }
            None => Err(GraphError::UnknownJson),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::tests::path;
    use super::*;

    fn graph(json: &str, roots: &[&str]) -> Result<ReferenceGraph, GraphError> {
        let json = json.replace("A", &path("a")).replace("B", &path("b"));
        let roots: Vec<StorePath> = roots.iter().map(|r| path(r).parse().unwrap()).collect();
        ReferenceGraph::from_json(json.as_bytes(), &roots)
    }

    #[rstest]
    #[case::list(
        r#"[{"path":"A","narSize":1,"references":["B"]},{"path":"B","narSize":2,"references":[]}]"#
    )]
    #[case::map(r#"{"A":{"narSize":1,"references":["B"]},"B":{"narSize":2,"references":[]}}"#)]
    #[case::export(
        r#"{"exportReferencesGraph":{"graph":["A"]},"graph":[
            {"path":"A","narSize":1,"references":["B"]},{"path":"B","narSize":2,"references":[]}]}"#
    )]
    fn every_form_gives_the_same_graph(#[case] json: &str) {
        let graph = graph(json, &[]).unwrap();
        let roots: Vec<_> = graph
            .roots()
            .iter()
            .map(|&r| graph.node(r).path.name())
            .collect();
        assert_eq!((graph.len(), roots), (2, vec!["a"]));
    }

    #[test]
    fn roots_are_for_path_information_only() {
        let list = r#"[{"path":"A","narSize":1,"references":[]},{"path":"B","narSize":2,"references":[]}]"#;
        assert_eq!(graph(list, &["b"]).unwrap().roots().len(), 1);
        assert_eq!(graph(list, &[]).unwrap().roots().len(), 2);
        let export = r#"{"exportReferencesGraph":{"graph":[]},"graph":[]}"#;
        assert!(matches!(
            graph(export, &["a"]),
            Err(GraphError::RootsNotAllowed)
        ));
    }

    #[rstest]
    #[case("")]
    #[case("7")]
    #[case(r#"{"glibc-2.38":312}"#)]
    fn other_json_is_refused(#[case] json: &str) {
        assert!(matches!(graph(json, &[]), Err(GraphError::UnknownJson)));
    }
}
