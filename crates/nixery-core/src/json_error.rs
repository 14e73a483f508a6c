//! An error of JSON, without the types of the library that reads it.

/// Why a text is not the JSON that was expected: what is wrong, with line and column.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct JsonError(serde_json::Error);

impl JsonError {
    pub(crate) fn new(error: serde_json::Error) -> Self {
        Self(error)
    }
}
