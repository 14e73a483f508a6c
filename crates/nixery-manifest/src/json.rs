//! What the JSON of all documents has in common.

use serde::{Deserialize, Deserializer, Serialize};

use crate::ParseError;

/// Reads `null` as the empty value: Go writes its empty lists and maps so.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Compact JSON of one of this crate's documents.
pub(crate) fn to_bytes<T: Serialize>(document: &T) -> Vec<u8> {
    // Structs, strings, integers and maps with string keys: there is nothing that can fail.
    serde_json::to_vec(document).expect("a document of strings and integers serialises")
}

/// Reads `bytes` as the document called `what`.
pub(crate) fn from_slice<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, ParseError> {
    serde_json::from_slice(bytes).map_err(|source| ParseError::Json { what, source })
}
