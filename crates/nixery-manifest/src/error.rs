//! Errors of reading documents.

use crate::MediaType;

/// Why bytes are not the document they should be.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The bytes are not JSON, or not JSON of that shape.
    #[error("cannot read the {what}")]
    Json {
        /// The document that was expected.
        what: &'static str,
        /// Where and why reading failed.
        #[source]
        source: serde_json::Error,
    },
    /// The document says it is something else.
    #[error("the document is a `{found}`, not an {what}")]
    WrongMediaType {
        /// The document that was expected.
        what: &'static str,
        /// The media type it states.
        found: MediaType,
    },
    /// The document could be read as a manifest and as an index, and so mean two things to two
    /// readers.
    #[error(
        "the {what} has a field `{field}`, which belongs to another kind of document: refused as ambiguous"
    )]
    Ambiguous {
        /// The document that was expected.
        what: &'static str,
        /// The field that does not belong to it.
        field: &'static str,
    },
}
