//! The pseudonym of a client or a name in records.

use nixery_manifest::Digester;
use serde::{Deserialize, Serialize};

/// The first 64 bits of a salted SHA-256: equal for equal input, and without the salt it reveals
/// nothing else. In records it is 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Returns the fingerprint of the parts in this order, under a salt. Equal texts that are
    /// divided into other parts have another fingerprint.
    #[must_use]
    pub fn of(salt: &[u8], parts: &[&[u8]]) -> Self {
        let mut digester = Digester::new();
        for part in [&[salt], parts].concat() {
            digester.update(&(part.len() as u64).to_be_bytes());
            digester.update(part);
        }
        let digest = digester.finish();
        let first = digest.as_bytes().iter().take(8);
        Self(first.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        format!("{:016x}", fingerprint.0)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16)
            .map(Self)
            .ok()
            .filter(|&fingerprint| String::from(fingerprint) == text)
            .ok_or("a fingerprint is 16 lower-case hexadecimal digits")
    }
}
