//! The bytes of a document.

use crate::{Descriptor, Digest, MediaType};

/// The bytes of a document, with the media type and the digest that a descriptor needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Media type of the document.
    pub media_type: MediaType,
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes, which are stored and served unchanged.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Computes the digest of `bytes`.
    pub fn new(media_type: MediaType, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: Digest::of(&bytes),
            bytes,
        }
    }

    /// Returns the number of bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns a descriptor of the blob.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.size())
    }
}
