//! The JSON that Nix writes about store paths, borrowed from the bytes it is parsed from.
//!
//! Three shapes hold the same facts: the structured attribute `exportReferencesGraph` (Nix manual, "Advanced
//! attributes"), `nix path-info --json` as a list (Nix 2.8) or as a map keyed by path (since 2.19), and its
//! version 2, which has base names under `info` beside a `storeDir`. Fields not needed are skipped.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A string that borrows from the input where it holds no escapes; `Vec<Cow<str>>` alone would copy each.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// One path as Nix describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawNode<'a> {
    /// Absent where the path is the key of a map.
    #[serde(borrow)]
    pub(crate) path: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) nar_hash: Option<RawHash<'a>>,
    pub(crate) nar_size: Option<u64>,
    pub(crate) closure_size: Option<u64>,
    #[serde(borrow, default)]
    pub(crate) references: Vec<Text<'a>>,
    /// Nix 2.8 writes `"valid": false` for a path that it does not have.
    #[serde(default = "valid")]
    pub(crate) valid: bool,
}

fn valid() -> bool {
    true
}

impl<'a> RawNode<'a> {
    fn named(path: Text<'a>, node: Option<RawNode<'a>>) -> Self {
        match node {
            Some(node) => Self {
                path: Some(path),
                ..node
            },
            // A map has `null` for a path that is not in the store.
            None => Self {
                path: Some(path),
                nar_hash: None,
                nar_size: None,
                closure_size: None,
                references: Vec::new(),
                valid: false,
            },
        }
    }
}

/// A hash as text, or in the parts that some versions of Nix write.
#[derive(Debug)]
pub(crate) struct RawHash<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for RawHash<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand: an untagged enum would copy every hash first.
        struct HashVisitor;
        impl<'de> Visitor<'de> for HashVisitor {
            type Value = RawHash<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a hash")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(RawHash(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(RawHash(text.to_owned().into()))
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
                Ok(RawHash(format!("{algorithm}{separator}{hash}").into()))
            }
        }
        deserializer.deserialize_any(HashVisitor)
    }
}

/// The attributes file of a derivation with `exportReferencesGraph.graph = [ … ]`.
#[derive(Debug, Deserialize)]
pub(crate) struct RawExport<'a> {
    #[serde(rename = "exportReferencesGraph", borrow)]
    pub(crate) roots: RawRoots<'a>,
    #[serde(borrow)]
    pub(crate) graph: Vec<RawNode<'a>>,
}

/// The roots of the graph with the name `graph`.
#[derive(Debug, Deserialize)]
pub(crate) struct RawRoots<'a> {
    #[serde(borrow)]
    pub(crate) graph: Vec<Text<'a>>,
}

/// What `nix path-info --json` prints, in any of its shapes.
#[derive(Debug)]
pub(crate) struct RawPathInfo<'a>(pub(crate) Vec<RawNode<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for RawPathInfo<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathInfoVisitor)
    }
}

struct PathInfoVisitor;

impl<'de> Visitor<'de> for PathInfoVisitor {
    type Value = RawPathInfo<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of store paths or a map keyed by store path")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element::<RawNode<'de>>()? {
            if node.path.is_none() {
                return Err(serde::de::Error::missing_field("path"));
            }
            nodes.push(node);
        }
        Ok(RawPathInfo(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut nodes = Vec::new();
        let mut store_dir = None;
        while let Some(key) = map.next_key::<Text<'de>>()? {
            match key.as_str() {
                path if path.starts_with('/') => nodes.push(RawNode::named(key, map.next_value()?)),
                "info" => nodes.extend(map.next_value::<NodeMap<'de>>()?.0),
                "storeDir" => store_dir = Some(map.next_value::<String>()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        complete_base_names(&mut nodes, store_dir.as_deref().unwrap_or("/nix/store"));
        Ok(RawPathInfo(nodes))
    }
}

/// Puts the store directory before what are base names only (version 2).
fn complete_base_names(nodes: &mut [RawNode<'_>], store_dir: &str) {
    let complete = |text: &mut Text<'_>| {
        if !text.0.starts_with('/') {
            text.0 = format!("{store_dir}/{}", text.0).into();
        }
    };
    for node in nodes {
        node.path.iter_mut().for_each(complete);
        node.references.iter_mut().for_each(complete);
    }
}

/// A map from path or base name to facts or `null`, repeated keys kept.
struct NodeMap<'a>(Vec<RawNode<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for NodeMap<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeMapVisitor;
        impl<'de> Visitor<'de> for NodeMapVisitor {
            type Value = NodeMap<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map keyed by store path")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut nodes = Vec::new();
                while let Some((key, node)) = map.next_entry()? {
                    nodes.push(RawNode::named(key, node));
                }
                Ok(NodeMap(nodes))
            }
        }
        deserializer.deserialize_map(NodeMapVisitor)
    }
}
