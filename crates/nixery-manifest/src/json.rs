//! Reading and writing the JSON of documents.

use serde::{Deserialize, Deserializer, Serialize};

use crate::ParseError;

/// Reads `null` as the default value. Go programs write empty lists and maps as `null`.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Serializes a document of this crate to compact JSON.
pub(crate) fn to_bytes<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document)
        .expect("structs, strings, integers and maps with string keys always serialize")
}

/// Parses `bytes` as the document that errors call `what`.
pub(crate) fn from_slice<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, ParseError> {
    serde_json::from_slice(bytes).map_err(|source| ParseError::Json {
        what,
        source: source.into(),
    })
}
