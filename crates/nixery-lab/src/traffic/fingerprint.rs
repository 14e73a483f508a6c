//! What stands for a client or a name in records.

use std::fmt;
use std::str::FromStr;

use nixery_manifest::{Digest, Digester};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The first 64 bits of a salted SHA-256: tells equal from different, and nothing else to whoever does
/// not know the salt. Its text form is 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Of the parts in this order, under a salt. Where one part ends and the next begins counts.
    #[must_use]
    pub fn of(salt: &[u8], parts: &[&[u8]]) -> Self {
        let mut digester = Digester::new();
        for part in [&[salt], parts].concat() {
            digester.update(&(part.len() as u64).to_be_bytes());
            digester.update(part);
        }
        Self::cut(&digester.finish())
    }

    fn cut(digest: &Digest) -> Self {
        let first = digest.as_bytes().iter().take(8);
        Self(first.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 16 lower-case hexadecimal digits")]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(lower_hex) {
            return Err(FingerprintError);
        }
        let number = u64::from_str_radix(text, 16);
        number.map(Self).map_err(|_| FingerprintError)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}
