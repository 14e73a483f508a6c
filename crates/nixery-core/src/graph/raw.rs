//! The JSON that Nix writes about store paths, borrowed from the bytes it is read from.
//!
//! Three shapes hold the same facts: the structured attribute `exportReferencesGraph` (Nix manual, "Advanced
//! attributes"), `nix path-info --json` as a list (Nix 2.8) or as a map keyed by path (since 2.19), and its
//! version 2, which has base names under `info` beside a `storeDir`. Fields not needed are skipped.
//!
//! By hand where `derive` would do, because all references go into one list: a list for each path would take a
//! third of the time.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::raw_hash::Hash;
use super::raw_text::{OptionalText, Text, Texts};

/// Most bytes of a store directory; Linux's longest path.
const MAX_STORE_DIR: usize = 4096;

/// What the input says, in its order and unchecked.
#[derive(Debug, Default)]
pub(crate) struct RawGraph<'a> {
    /// What all strings are places in.
    texts: Texts<'a>,
    pub(crate) nodes: Vec<RawNode>,
    /// Those of all nodes, one after the other.
    references: Vec<Text>,
    pub(crate) roots: Vec<String>,
}

/// One path as Nix describes it.
#[derive(Debug)]
pub(crate) struct RawNode {
    path: Option<Text>,
    nar_hash: Option<Text>,
    pub(crate) nar_size: Option<u64>,
    pub(crate) closure_size: Option<u64>,
    /// Nix 2.8 writes `"valid": false` for a path that it does not have.
    pub(crate) valid: bool,
    /// Where its references end; they begin where those of the node before end. There are fewer than 2^32: each
    /// ends at a place of its own in the texts.
    end: u32,
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

    pub(crate) fn text(&self, text: Text) -> &str {
        self.texts.get(text)
    }

    /// A node's path; empty where the input has none.
    pub(crate) fn path(&self, node: &RawNode) -> &str {
        node.path.map_or("", |path| self.text(path))
    }

    /// Bytes of a node's path.
    pub(crate) fn path_len(&self, node: &RawNode) -> usize {
        node.path.map_or(0, Text::len)
    }

    pub(crate) fn nar_hash(&self, node: &RawNode) -> Option<&str> {
        node.nar_hash.map(|hash| self.text(hash))
    }

    /// What all nodes refer to, one after the other, as often as the input names it.
    pub(crate) fn all_references(&self) -> &[Text] {
        &self.references
    }

    /// Where among all references a node's are.
    pub(crate) fn place(&self, node: usize) -> Range<usize> {
        let start = node.checked_sub(1).map_or(0, |i| self.nodes[i].end);
        start as usize..self.nodes[node].end as usize
    }

    /// What a node refers to.
    pub(crate) fn references(&self, node: usize) -> impl Iterator<Item = &str> {
        let references = &self.references[self.place(node)];
        references.iter().map(|&reference| self.text(reference))
    }

    /// Puts the store directory before what are base names only (version 2).
    fn complete_base_names<E: Error>(&mut self, store_dir: &str) -> Result<(), E> {
        let paths = self.nodes.iter_mut().filter_map(|node| node.path.as_mut());
        for text in paths.chain(&mut self.references) {
            let name = self.texts.get(*text);
            if !name.starts_with('/') {
                let path = format!("{store_dir}/{name}");
                *text = self.texts.add(&path)?;
            }
        }
        Ok(())
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
        texts: Texts<'a>,
        shape: Shape,
    ) -> serde_json::Result<RawGraph<'a>> {
        // Nix writes some 250 bytes about a path and 60 about a reference: one list must not grow while the other
        // is read, since moving it costs more than room that nobody touches.
        let mut graph = RawGraph {
            texts,
            nodes: Vec::with_capacity(bytes / 256),
            references: Vec::with_capacity(bytes / 64),
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
        Ok(text) => {
            let reader = serde_json::Deserializer::from_str(text);
            run(reader, json.len(), Texts::of(text), shape)
        }
        Err(_) => {
            let reader = serde_json::Deserializer::from_slice(json);
            run(reader, json.len(), Texts::default(), shape)
        }
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

        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "camelCase")]
        enum Field {
            ExportReferencesGraph,
            Graph,
            #[serde(other)]
            Other,
        }
        let (mut roots, mut graph) = (None, None);
        while let Some(field) = map.next_key()? {
            match field {
                Field::ExportReferencesGraph => {
                    once(&mut roots, ROOTS)?;
                    self.0.roots = map.next_value::<Roots>()?.graph;
                }
                Field::Graph => {
                    once(&mut graph, GRAPH)?;
                    map.next_value_seed(NodeList(self.0))?;
                }
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        roots.ok_or_else(|| A::Error::missing_field(ROOTS))?;
        graph.ok_or_else(|| A::Error::missing_field(GRAPH))
    }
}

/// The roots of the graph with the name `graph`: few.
#[derive(Deserialize)]
struct Roots {
    graph: Vec<String>,
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
        while let Some(key) = map.next_key_seed(&mut self.0.texts)? {
            match self.0.text(key) {
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
        // It is put before every base name.
        if store_dir.len() > MAX_STORE_DIR {
            let message = format!("storeDir has more than {MAX_STORE_DIR} bytes");
            return Err(A::Error::custom(message));
        }
        self.0.complete_base_names(store_dir)
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
        while let Some(key) = map.next_key_seed(&mut self.0.texts)? {
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
    node: RawNode,
}
seed!(Node, deserialize_option);

impl<'g, 'a> Node<'g, 'a> {
    fn of(graph: &'g mut RawGraph<'a>, path: Option<Text>) -> Self {
        let node = RawNode {
            path,
            nar_hash: None,
            nar_size: None,
            closure_size: None,
            valid: true,
            end: 0,
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
        self.node.end = self.graph.references.len() as u32;
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
                    let inside = map.next_value_seed(OptionalText(&mut graph.texts))?;
                    // The key of a map is the path, whatever is said inside.
                    node.path = node.path.or(inside);
                }
                Field::NarHash => {
                    once(&mut hash, "narHash")?;
                    node.nar_hash = map.next_value_seed(Hash(&mut graph.texts))?;
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
        node.end = graph.references.len() as u32;
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
        let graph = self.0;
        while let Some(reference) = seq.next_element_seed(&mut graph.texts)? {
            graph.references.push(reference);
        }
        Ok(())
    }
}
