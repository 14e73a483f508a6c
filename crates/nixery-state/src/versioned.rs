//! The envelope of every record in a store: a JSON object whose first field is the version of its
//! format, `{"version":1, …}`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Why bytes are not a record of the expected version.
#[derive(Debug, thiserror::Error)]
pub enum VersionedError {
    /// The bytes are not the JSON of such a record.
    #[error("not the expected JSON")]
    Json(#[source] serde_json::Error),
    /// The record has another version.
    #[error("the version is {found}")]
    Version {
        /// The record's version.
        found: u64,
    },
}

/// Writes a record with its version. The record must serialise to a JSON object.
///
/// # Panics
/// The record does not serialise to JSON, as a map whose keys are not texts.
pub fn to_bytes<T: Serialize>(version: u32, record: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        version: u32,
        #[serde(flatten)]
        record: &'a T,
    }
    serde_json::to_vec(&Versioned { version, record }).expect("records serialise to JSON")
}

/// Reads a record. Fields that are not known are ignored.
///
/// # Errors
/// The bytes are no record, or one of another version.
pub fn from_bytes<T: DeserializeOwned>(version: u32, bytes: &[u8]) -> Result<T, VersionedError> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    // The version first: the rest of another version need not parse.
    let Version { version: found } = serde_json::from_slice(bytes).map_err(VersionedError::Json)?;
    if found != u64::from(version) {
        return Err(VersionedError::Version { found });
    }
    serde_json::from_slice(bytes).map_err(VersionedError::Json)
}
