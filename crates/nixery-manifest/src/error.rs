//! Errors of parsing documents.

use crate::MediaType;

/// An error of parsing a document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The bytes are not JSON, or not the JSON of this document.
    #[error("cannot read the {what}")]
    Json {
        /// The document that was expected.
        what: &'static str,
        /// The position and the reason of the failure.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The document states the media type of another kind of document.
    #[error("expected an {what}, but the document has the media type `{found}`")]
    WrongMediaType {
        /// The document that was expected.
        what: &'static str,
        /// The media type that the document states.
        found: MediaType,
    },
    /// The document can be read both as a manifest and as an index.
    #[error("the {what} is ambiguous: it also has the field `{field}` of another kind of document")]
    Ambiguous {
        /// The document that was expected.
        what: &'static str,
        /// The field that belongs to another kind of document.
        field: &'static str,
    },
}
