//! The JSON that Nix writes about store paths, borrowed from the bytes it is read from.
//!
//! Three shapes hold the same facts: the structured attribute `exportReferencesGraph` (Nix manual,
//! "Advanced attributes"), `nix path-info --json` as a list (Nix 2.8) or as a map keyed by path
//! (since 2.19), and its version 2, which has base names under `info` beside a `storeDir`. Fields
//! that are not needed are skipped.
//!
//! The visitors are written by hand because all references go into one list. Derived ones
//! would make a list for each path and spend a third of the time on it.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::JsonKind;

/// Most bytes of a store directory; Linux's longest path.
const MAX_STORE_DIR: usize = 4096;

/// The input in its order, unchecked.
#[derive(Debug, Default)]
pub(crate) struct RawGraph<'a> {
    /// All strings are places in it.
    texts: Texts<'a>,
    pub(crate) nodes: Vec<RawNode>,
    /// The references of all nodes, one after the other.
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
    /// The place where its references end. They begin where those of the node before end. There are
    /// fewer than 2^32: each ends at a place of its own in the texts.
    end: u32,
}

impl RawGraph<'_> {
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

    /// The references of all nodes, one after the other, with repetitions.
    pub(crate) fn all_references(&self) -> &[Text] {
        &self.references
    }

    /// The places of a node's references among all references.
    pub(crate) fn place(&self, node: usize) -> Range<usize> {
        let start = node.checked_sub(1).map_or(0, |i| self.nodes[i].end);
        start as usize..self.nodes[node].end as usize
    }

    /// The paths that a node refers to.
    pub(crate) fn references(&self, node: usize) -> impl Iterator<Item = &str> {
        let references = &self.references[self.place(node)];
        references.iter().map(|&reference| self.text(reference))
    }

    /// Completes base names (version 2) with the store directory.
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

/// Reads a graph from JSON of the given kind.
pub(crate) fn read(json: &[u8], kind: JsonKind) -> serde_json::Result<RawGraph<'_>> {
    /// Compiled for text and for bytes.
    fn run<'a, R: serde_json::de::Read<'a>>(
        mut json: serde_json::Deserializer<R>,
        bytes: usize,
        texts: Texts<'a>,
        kind: JsonKind,
    ) -> serde_json::Result<RawGraph<'a>> {
        // Nix writes some 250 bytes about a path and 60 about a reference. Room that is not used
        // costs less than moving a list that has to grow.
        let mut graph = RawGraph {
            texts,
            nodes: Vec::with_capacity(bytes / 256),
            references: Vec::with_capacity(bytes / 64),
            roots: Vec::new(),
        };
        match kind {
            JsonKind::Graph => json.deserialize_map(Export(&mut graph))?,
            JsonKind::PathInfo => json.deserialize_any(PathInfo(&mut graph))?,
        }
        json.end()?;
        Ok(graph)
    }
    // Checking the whole input for UTF-8 at once is several times as fast as checking each string.
    match std::str::from_utf8(json) {
        Ok(text) => {
            let reader = serde_json::Deserializer::from_str(text);
            run(reader, json.len(), Texts::of(text), kind)
        }
        Err(_) => {
            let reader = serde_json::Deserializer::from_slice(json);
            run(reader, json.len(), Texts::default(), kind)
        }
    }
}

/// Implements `DeserializeSeed` for a visitor of a list or map.
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

/// Marks a field as read. Fails the second time.
fn once<E: Error>(met: &mut Option<()>, field: &'static str) -> Result<(), E> {
    match met.replace(()) {
        None => Ok(()),
        Some(()) => Err(E::duplicate_field(field)),
    }
}

/// The whole output of `nix path-info`.
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
        // Every base name gets it.
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
                    let inside = map.next_value_seed(&mut graph.texts)?;
                    // The key of a map is the path; a `path` inside is ignored.
                    node.path.get_or_insert(inside);
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

/// A hash: a text, an object of its parts in some versions of Nix, or `null`.
struct Hash<'t, 'a>(&'t mut Texts<'a>);

impl<'de> DeserializeSeed<'de> for Hash<'_, 'de> {
    type Value = Option<Text>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Hash<'_, 'de> {
    type Value = Option<Text>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hash")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        self.0.visit_borrowed_str(text).map(Some)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        self.0.visit_str(text).map(Some)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Parts {
            algorithm: String,
            format: Option<String>,
            hash: String,
        }
        let map = serde::de::value::MapAccessDeserializer::new(map);
        let Parts {
            algorithm,
            format,
            hash,
        } = Parts::deserialize(map)?;
        // As text, base64 comes after a dash (SRI) and the other formats after a colon.
        let separator = match format.as_deref() {
            None | Some("base64") => '-',
            Some(_) => ':',
        };
        let text = format!("{algorithm}{separator}{hash}");
        self.0.add(&text).map(Some)
    }
}

/// A string of one [`Texts`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    start: u32,
    /// Never 0: before each string comes a quote.
    end: NonZeroU32,
}

impl Text {
    /// Its bytes.
    fn len(self) -> usize {
        (self.end.get() - self.start) as usize
    }
}

/// The texts that [`Text`]s are places in: the input, followed by strings that are not in it
/// literally, such as those with escapes.
#[derive(Debug, Default)]
struct Texts<'a> {
    /// Empty where the input is not UTF-8: then nothing is borrowed from it.
    input: &'a str,
    added: String,
}

impl<'a> Texts<'a> {
    fn of(input: &'a str) -> Self {
        Self {
            input,
            added: String::new(),
        }
    }

    fn get(&self, text: Text) -> &str {
        let (start, end) = (text.start as usize, text.end.get() as usize);
        match start.checked_sub(self.input.len()) {
            None => &self.input[start..end],
            Some(start) => &self.added[start..end - self.input.len()],
        }
    }

    /// Adds a string.
    ///
    /// # Errors
    /// The strings have 4 GiB or more together.
    fn add<E: Error>(&mut self, text: &str) -> Result<Text, E> {
        // A byte between them keeps `end` above 0 where all is empty.
        self.added.push('\0');
        let start = self.input.len() + self.added.len();
        let place = place(start, text)?;
        self.added.push_str(text);
        Ok(place)
    }

    /// Returns the place of a part of the input.
    fn borrow<E: Error>(&mut self, text: &str) -> Result<Text, E> {
        let start = (text.as_ptr() as usize).wrapping_sub(self.input.as_ptr() as usize);
        match start < self.input.len() {
            true => place(start, text),
            false => self.add(text),
        }
    }
}

fn place<E: Error>(start: usize, text: &str) -> Result<Text, E> {
    let end = u32::try_from(start + text.len()).ok();
    let end = end.and_then(NonZeroU32::new);
    let end = end.ok_or_else(|| E::custom("the input has 4 GiB of text or more"))?;
    // What ends within bounds starts there.
    let start = start as u32;
    Ok(Text { start, end })
}

impl<'de> DeserializeSeed<'de> for &mut Texts<'de> {
    type Value = Text;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for &mut Texts<'de> {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text, E> {
        self.borrow(text)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
        self.add(text)
    }
}
