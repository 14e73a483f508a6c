//! The JSON that Nix writes about store paths, borrowed from the bytes it is read from.
//!
//! Three shapes hold the same facts: the structured attribute `exportReferencesGraph` (Nix manual, "Advanced
//! attributes"), `nix path-info --json` as a list (Nix 2.8) or as a map keyed by path (since 2.19), and its
//! version 2, which has base names under `info` beside a `storeDir`. Fields not needed are skipped.
//!
//! By hand where `derive` would do, because all references go into one list: a list for each path would take a
//! third of the time.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::raw_hash::RawHash;

/// A string that borrows from the input where it holds no escapes; a list of `Cow<str>` would copy each.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// What the input says, in its order and unchecked.
#[derive(Debug, Default)]
pub(crate) struct RawGraph<'a> {
    pub(crate) nodes: Vec<RawNode<'a>>,
    /// Those of all nodes, one after the other.
    references: Vec<Text<'a>>,
    pub(crate) roots: Vec<Text<'a>>,
}

/// One path as Nix describes it.
#[derive(Debug)]
pub(crate) struct RawNode<'a> {
    path: Option<Text<'a>>,
    pub(crate) nar_hash: Option<RawHash<'a>>,
    pub(crate) nar_size: Option<u64>,
    pub(crate) closure_size: Option<u64>,
    /// Nix 2.8 writes `"valid": false` for a path that it does not have.
    pub(crate) valid: bool,
    /// Where its references end; they begin where those of the node before end.
    end: usize,
}

impl RawNode<'_> {
    /// The path; empty where the input has none.
    pub(crate) fn path(&self) -> &str {
        self.path.as_ref().map_or("", Text::as_str)
    }
}

impl<'a> RawGraph<'a> {
    /// Reads the attributes file of a derivation with `exportReferencesGraph.graph = [ … ]`.
    pub(crate) fn export(json: &'a [u8]) -> serde_json::Result<Self> {
        read(json, Shape::Export)
    }

    /// Reads what `nix path-info --json` prints, in any of its shapes.
    pub(crate) fn path_info(json: &'a [u8]) -> serde_json::Result<Self> {
        read(json, Shape::PathInfo)
    }

    /// What all nodes refer to, one after the other, as often as the input names it.
    pub(crate) fn all_references(&self) -> &[Text<'a>] {
        &self.references
    }

    /// Where among all references a node's are.
    pub(crate) fn place(&self, node: usize) -> Range<usize> {
        let start = node.checked_sub(1).map_or(0, |i| self.nodes[i].end);
        start..self.nodes[node].end
    }

    /// What a node refers to.
    pub(crate) fn references(&self, node: usize) -> &[Text<'a>] {
        &self.references[self.place(node)]
    }

    /// Puts the store directory before what are base names only (version 2).
    fn complete_base_names(&mut self, store_dir: &str) {
        let paths = self.nodes.iter_mut().filter_map(|node| node.path.as_mut());
        for text in paths.chain(&mut self.references) {
            if !text.0.starts_with('/') {
                text.0 = format!("{store_dir}/{}", text.0).into();
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Shape {
    Export,
    PathInfo,
}

fn read(json: &[u8], shape: Shape) -> serde_json::Result<RawGraph<'_>> {
    /// Twice, for the two kinds of input.
    fn run<'a, R: serde_json::de::Read<'a>>(
        mut json: serde_json::Deserializer<R>,
        bytes: usize,
        shape: Shape,
    ) -> serde_json::Result<RawGraph<'a>> {
        // Nix writes some 200 bytes about a path and 70 about a reference.
        let mut graph = RawGraph {
            nodes: Vec::with_capacity(bytes / 600),
            references: Vec::with_capacity(bytes / 120),
            roots: Vec::new(),
        };
        match shape {
            Shape::Export => json.deserialize_map(Export(&mut graph))?,
            Shape::PathInfo => json.deserialize_any(PathInfo(&mut graph))?,
        }
        json.end()?;
        Ok(graph)
    }
    // Looking at all of the input at once is several times as fast as at each string.
    match std::str::from_utf8(json) {
        Ok(text) => run(serde_json::Deserializer::from_str(text), json.len(), shape),
        Err(_) => run(
            serde_json::Deserializer::from_slice(json),
            json.len(),
            shape,
        ),
    }
}

/// Gives a visitor of a list or map the method that makes it the value of one.
macro_rules! seed {
    ($seed:ident, $method:ident) => {
        impl<'de> DeserializeSeed<'de> for $seed<'_, 'de> {
            type Value = ();

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                deserializer.$method(self)
            }
        }
    };
}

/// The whole attributes file.
struct Export<'g, 'a>(&'g mut RawGraph<'a>);

impl<'de> Visitor<'de> for Export<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with exportReferencesGraph and graph")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        const ROOTS: &str = "exportReferencesGraph";
        const GRAPH: &str = "graph";
        let (mut roots, mut graph) = (None, None);
        while let Some(key) = map.next_key::<Text<'de>>()? {
            match &*key.0 {
                ROOTS => {
                    once(&mut roots, ROOTS)?;
                    self.0.roots = map.next_value::<Roots<'de>>()?.graph;
                }
                GRAPH => {
                    once(&mut graph, GRAPH)?;
                    map.next_value_seed(NodeList(self.0))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        roots.ok_or_else(|| A::Error::missing_field(ROOTS))?;
        graph.ok_or_else(|| A::Error::missing_field(GRAPH))
    }
}

/// The roots of the graph with the name `graph`.
#[derive(Deserialize)]
struct Roots<'a> {
    #[serde(borrow)]
    graph: Vec<Text<'a>>,
}

/// Notes that a field is met; an error the second time.
fn once<E: Error>(met: &mut Option<()>, field: &'static str) -> Result<(), E> {
    match met.replace(()) {
        None => Ok(()),
        Some(()) => Err(E::duplicate_field(field)),
    }
}

/// All that `nix path-info` prints.
struct PathInfo<'g, 'a>(&'g mut RawGraph<'a>);

impl<'de> Visitor<'de> for PathInfo<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of store paths or a map keyed by store path")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        NodeList(self.0).visit_seq(seq)?;
        match self.0.nodes.iter().any(|node| node.path.is_none()) {
            true => Err(A::Error::missing_field("path")),
            false => Ok(()),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut store_dir = None;
        while let Some(key) = map.next_key::<Text<'de>>()? {
            match &*key.0 {
                path if path.starts_with('/') => {
                    map.next_value_seed(Node::of(self.0, Some(key)))?;
                }
                "info" => map.next_value_seed(NodeMap(self.0))?,
                "storeDir" => store_dir = Some(map.next_value::<String>()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let store_dir = store_dir.as_deref().unwrap_or("/nix/store");
        self.0.complete_base_names(store_dir);
        Ok(())
    }
}

struct NodeList<'g, 'a>(&'g mut RawGraph<'a>);
seed!(NodeList, deserialize_seq);

impl<'de> Visitor<'de> for NodeList<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of store paths")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Listed(self.0))?.is_some() {}
        Ok(())
    }
}

/// A map from path or base name to facts or `null`, repeated keys kept.
struct NodeMap<'g, 'a>(&'g mut RawGraph<'a>);
seed!(NodeMap, deserialize_map);

impl<'de> Visitor<'de> for NodeMap<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map keyed by store path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Text<'de>>()? {
            map.next_value_seed(Node::of(self.0, Some(key)))?;
        }
        Ok(())
    }
}

/// A node of a list, which must not be `null`.
struct Listed<'g, 'a>(&'g mut RawGraph<'a>);

impl<'de> DeserializeSeed<'de> for Listed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(Node::of(self.0, None))
    }
}

/// A node, or `null` where a map has a path that is not in the store.
struct Node<'g, 'a> {
    graph: &'g mut RawGraph<'a>,
    /// The node, as far as it is read.
    node: RawNode<'a>,
}
seed!(Node, deserialize_option);

impl<'g, 'a> Node<'g, 'a> {
    fn of(graph: &'g mut RawGraph<'a>, path: Option<Text<'a>>) -> Self {
        let node = RawNode {
            path,
            nar_hash: None,
            nar_size: None,
            closure_size: None,
            valid: true,
            end: graph.references.len(),
        };
        Self { graph, node }
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    Path,
    NarHash,
    NarSize,
    ClosureSize,
    References,
    Valid,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for Node<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is known of a store path")
    }

    fn visit_none<E: Error>(mut self) -> Result<(), E> {
        self.node.valid = false;
        self.graph.nodes.push(self.node);
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { graph, mut node } = self;
        let (mut path, mut hash, mut size, mut closure, mut references, mut valid) =
            Default::default();
        while let Some(field) = map.next_key()? {
            match field {
                Field::Path => {
                    once(&mut path, "path")?;
                    let inside = map.next_value()?;
                    // The key of a map is the path, whatever is said inside.
                    node.path = node.path.or(inside);
                }
                Field::NarHash => {
                    once(&mut hash, "narHash")?;
                    node.nar_hash = map.next_value()?;
                }
                Field::NarSize => {
                    once(&mut size, "narSize")?;
                    node.nar_size = map.next_value()?;
                }
                Field::ClosureSize => {
                    once(&mut closure, "closureSize")?;
                    node.closure_size = map.next_value()?;
                }
                Field::References => {
                    once(&mut references, "references")?;
                    map.next_value_seed(References(graph))?;
                }
                Field::Valid => {
                    once(&mut valid, "valid")?;
                    node.valid = map.next_value()?;
                }
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        node.end = graph.references.len();
        graph.nodes.push(node);
        Ok(())
    }
}

struct References<'g, 'a>(&'g mut RawGraph<'a>);
seed!(References, deserialize_seq);

impl<'de> Visitor<'de> for References<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of store paths")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(reference) = seq.next_element::<Text<'de>>()? {
            self.0.references.push(reference);
        }
        Ok(())
    }
}
