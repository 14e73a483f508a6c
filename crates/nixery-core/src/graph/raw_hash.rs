//! A NAR hash as JSON has it.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use super::raw_text::{Text, Texts};

/// A hash as text, in the parts that some versions of Nix write, or `null`.
pub(crate) struct Hash<'t, 'a>(pub(crate) &'t mut Texts<'a>);

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
