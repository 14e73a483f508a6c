//! The envelope of every record in a store: a JSON object whose first field is the version of its
//! format, `{"version":1, …}`.

use std::error::Error;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Why bytes are not a record of the expected version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VersionedError {
    /// The bytes are not the JSON of such a record.
    #[error("it is not the expected JSON")]
    Json(#[source] Box<dyn Error + Send + Sync>),
    /// The record has another version.
    #[error("it has version {found}, which this program cannot read")]
    Version {
        /// The record's version.
        found: u64,
    },
}

/// Returns the JSON of a record with its version. The record must serialise to a JSON object.
///
/// # Panics
/// The record does not serialise to JSON, such as a map whose keys are not strings.
pub fn to_bytes<T: Serialize>(version: u32, record: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        version: u32,
        #[serde(flatten)]
        record: &'a T,
    }
    serde_json::to_vec(&Versioned { version, record }).expect("records serialise to JSON")
}

/// Reads a record. Unknown fields are ignored.
///
/// # Errors
/// The bytes are not a record, or have another version.
pub fn from_bytes<T: DeserializeOwned>(version: u32, bytes: &[u8]) -> Result<T, VersionedError> {
    // The version first: the other fields of another version may differ.
    let found = self::version(bytes)?;
    if found != u64::from(version) {
        return Err(VersionedError::Version { found });
    }
    from_json(bytes)
}

/// Returns the version of a record.
///
/// # Errors
/// The bytes are not a record.
pub fn version(bytes: &[u8]) -> Result<u64, VersionedError> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let Version { version } = from_json(bytes)?;
    Ok(version)
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, VersionedError> {
    serde_json::from_slice(bytes).map_err(|error| VersionedError::Json(error.into()))
}
