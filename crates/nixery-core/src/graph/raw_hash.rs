//! A NAR hash as JSON has it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

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
