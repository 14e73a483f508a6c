//! Authentication of records: an HMAC-SHA-256 of the entry's path and text.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use nixery_storage::Key;
use sha2::Sha256;

/// Hexadecimal digits of a tag.
const TAG_DIGITS: usize = 64;
/// What is between the text of a record and its tag, and after the tag.
const BEFORE_TAG: &[u8] = b",\"tag\":\"";
const AFTER_TAG: &[u8] = b"\"}";

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

    /// Adds the tag to the JSON of a record, as its last field.
    pub(super) fn seal(&self, key: &Key, mut json: Vec<u8>) -> Vec<u8> {
        let tag = self.hmac(key, &json).finalize().into_bytes();
        // The closing brace comes after the tag.
        json.pop();
        json.extend_from_slice(BEFORE_TAG);
        for byte in tag {
            json.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        json.extend_from_slice(AFTER_TAG);
        json
    }

    /// Whether the JSON of a record ends with the right tag.
    pub(super) fn is_sealed(&self, key: &Key, sealed: &[u8]) -> bool {
        let parts = || {
            let sealed = sealed.strip_suffix(AFTER_TAG)?;
            let (json, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_DIGITS)?)?;
            Some((json.strip_suffix(BEFORE_TAG)?, from_hex(tag)?))
        };
        let Some((json, tag)) = parts() else {
            return false;
        };
        // This compares in constant time.
        let hmac = self.hmac(key, &[json, b"}"].concat());
        hmac.verify_slice(&tag).is_ok()
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

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: &u8| char::from(*digit).to_digit(16).map(|value| value as u8);
    let pairs = digits.chunks_exact(2);
    pairs
        .map(|pair| Some(value(&pair[0])? << 4 | value(&pair[1])?))
        .collect()
}
