//! What protects the text of a record: a checksum, and with a secret an HMAC-SHA-256 of the entry's
//! path and text. Both are the last fields of its JSON.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use nixery_manifest::Digest;
use nixery_storage::Key;
use sha2::Sha256;

/// A field with 64 hexadecimal digits at the end of a JSON object.
pub(super) struct LastField(&'static str);

/// The checksum of all other fields but the tag.
pub(super) const CHECKSUM: LastField = LastField(",\"checksum\":\"");
/// The HMAC of all other fields.
pub(super) const TAG: LastField = LastField(",\"tag\":\"");

/// Hexadecimal digits of such a field.
const DIGITS: usize = 64;
const END: &[u8] = b"\"}";

impl LastField {
    /// Adds the field to a JSON object.
    pub(super) fn add(&self, mut json: Vec<u8>, value: Digest) -> Vec<u8> {
        // The closing brace comes after the field.
        json.pop();
        json.extend_from_slice(self.0.as_bytes());
        json.extend_from_slice(value.hex().as_bytes());
        json.extend_from_slice(END);
        json
    }

    /// Returns the JSON object without the field, and the value of the field, if it is there.
    pub(super) fn split(&self, json: &[u8]) -> Option<(Vec<u8>, Digest)> {
        let json = json.strip_suffix(END)?;
        let (json, value) = json.split_at_checked(json.len().checked_sub(DIGITS)?)?;
        let json = json.strip_suffix(self.0.as_bytes())?;
        let value = Digest::from_hex(std::str::from_utf8(value).ok()?).ok()?;
        Some(([json, b"}"].concat(), value))
    }
}

/// The secret that the servers on a store share. Who can write to the store, but does not know the
/// secret, cannot write a record that counts.
#[derive(Clone)]
pub struct RecordSecret(Hmac<Sha256>);

impl RecordSecret {
    /// Least bytes of a secret: as many as a tag has.
    pub const MIN_BYTES: usize = 32;

    /// Returns the secret with these bytes, unless they are too few.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let hmac = Hmac::new_from_slice(bytes).ok()?;
        (bytes.len() >= Self::MIN_BYTES).then_some(Self(hmac))
    }

    /// Returns the tag of a record.
    pub(super) fn tag(&self, key: &Key, json: &[u8]) -> Digest {
        Digest::from_bytes(self.hmac(key, json).finalize().into_bytes().into())
    }

    /// Whether this is the tag of a record. Takes the same time for every wrong tag.
    pub(super) fn has_made(&self, tag: &Digest, key: &Key, json: &[u8]) -> bool {
        self.hmac(key, json).verify_slice(tag.as_bytes()).is_ok()
    }

    fn hmac(&self, key: &Key, json: &[u8]) -> Hmac<Sha256> {
        // A path has no line break, so that path and text are separate.
        self.0
            .clone()
            .chain_update(key.path())
            .chain_update(b"\n")
            .chain_update(json)
    }
}

impl fmt::Debug for RecordSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordSecret(…)")
    }
}
