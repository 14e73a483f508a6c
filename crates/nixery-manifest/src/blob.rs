//! Documents as bytes.

use crate::{Descriptor, Digest, MediaType};

/// A document's bytes with what it takes to point at them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// What the bytes are.
    pub media_type: MediaType,
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes, to be stored and served as they are.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// The blob of these bytes.
    pub fn new(media_type: MediaType, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: Digest::of(&bytes),
            bytes,
        }
    }

    /// Number of bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// A descriptor that points at it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.size())
    }
}
