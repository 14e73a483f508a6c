//! SHA-256 digests of content.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Number of hexadecimal characters in a SHA-256 digest.
const HEX_LEN: usize = 64;

/// Name of the only supported algorithm in the OCI image specification.
const ALGORITHM: &str = "sha256";

/// Maximum number of characters of an invalid input in an error message.
const SHOWN_INPUT: usize = 80;

/// A SHA-256 digest of content.
///
/// The text form is `sha256:` and 64 lower-case hexadecimal characters (OCI image specification,
/// "Digests"). Parsing accepts no other spelling, so that each blob has exactly one key. Digests
/// are ordered like their text forms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Computes the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns the digest with these 32 raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 lower-case hexadecimal characters, without the algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(HEX_LEN);
        for byte in self.0 {
            // A table of pairs is faster than formatting, and every response contains digests.
            let at = 2 * usize::from(byte);
            text.push_str(&PAIRS[at..at + 2]);
        }
        text
    }

    /// Parses 64 lower-case hexadecimal characters.
    ///
    /// # Errors
    /// Returns [`DigestError::Malformed`] for any other input.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        parse_hex(hex).map_err(|rule| malformed(hex, rule))
    }

    /// Checks that this is the digest of `bytes`.
    ///
    /// # Errors
    /// Returns [`DigestError::Mismatch`] if it is not.
    pub fn verify(&self, bytes: &[u8]) -> Result<(), DigestError> {
        let actual = Self::of(bytes);
        if actual == *self {
            Ok(())
        } else {
            Err(DigestError::Mismatch {
                expected: *self,
                actual,
            })
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}:{}", self.hex())
    }
}

/// Prints the text form, because logs contain digests in this form.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(malformed(text, DigestRule::NoAlgorithm));
        };
        if algorithm != ALGORITHM {
            return Err(if is_algorithm(algorithm) {
                DigestError::UnsupportedAlgorithm {
                    algorithm: shown(algorithm),
                }
            } else {
                malformed(text, DigestRule::BadAlgorithm)
            });
        }
        parse_hex(hex).map_err(|rule| malformed(text, rule))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DigestVisitor;

        impl Visitor<'_> for DigestVisitor {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest: sha256: and 64 lower-case hexadecimal characters")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(DigestVisitor)
    }
}

/// Computes the [`Digest`] of bytes that arrive in pieces, and counts the bytes.
#[derive(Clone, Debug, Default)]
pub struct Digester {
    hash: Sha256,
    bytes: u64,
}

impl Digester {
    /// Returns a digester without any bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hashes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Returns the number of bytes hashed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the digest of all bytes.
    pub fn finish(self) -> Digest {
        Digest(self.hash.finalize().into())
    }
}

impl io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error of parsing a digest or of verifying content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The text is not a digest.
    #[error("invalid digest `{input}`: {rule}")]
    Malformed {
        /// The text, shortened and with control characters escaped.
        input: String,
        /// The rule that the text violates.
        rule: DigestRule,
    },
    /// The text is a digest of another algorithm.
    #[error("unsupported digest algorithm `{algorithm}`. Fix: use `sha256`")]
    UnsupportedAlgorithm {
        /// The algorithm in the text, shortened.
        algorithm: String,
    },
    /// The content has another digest than expected.
    #[error("the content has the digest {actual}, but {expected} was expected")]
    Mismatch {
        /// The expected digest.
        expected: Digest,
        /// The digest of the content.
        actual: Digest,
    },
}

/// A rule of the digest grammar that a text violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestRule {
    /// The text has no `:`.
    #[error("the algorithm is missing. Fix: write `sha256:` and 64 hexadecimal characters")]
    NoAlgorithm,
    /// The part before the `:` is not the name of an algorithm.
    #[error("the part before the colon is not an algorithm. Fix: write `sha256`")]
    BadAlgorithm,
    /// The part after the `:` is too short or too long.
    #[error("the hexadecimal part has {found} characters instead of 64")]
    Length {
        /// Number of characters in the text.
        found: usize,
    },
    /// The part after the `:` has a character other than `0`–`9` and `a`–`f`.
    #[error("character {found:?} at offset {offset} of the hexadecimal part is not one of 0-9 a-f")]
    NotHex {
        /// The invalid character.
        found: char,
        /// Byte offset of the character in the hexadecimal part.
        offset: usize,
    },
}

fn malformed(input: &str, rule: DigestRule) -> DigestError {
    let input = shown(input);
    DigestError::Malformed { input, rule }
}

/// Shortens untrusted input for an error message and escapes control characters.
fn shown(input: &str) -> String {
    let start = input.chars().take(SHOWN_INPUT);
    let mut shown: String = start.flat_map(char::escape_debug).collect();
    if input.chars().nth(SHOWN_INPUT).is_some() {
        shown.push('…');
    }
    shown
}

fn parse_hex(hex: &str) -> Result<Digest, DigestRule> {
    // An invalid character is the more useful error if the length is wrong, too.
    if let Some((offset, found)) = hex
        .char_indices()
        .find(|(_, c)| !matches!(c, '0'..='9' | 'a'..='f'))
    {
        return Err(DigestRule::NotHex { found, offset });
    }
    if hex.len() != HEX_LEN {
        return Err(DigestRule::Length { found: hex.len() });
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = hex_value(pair[0]) << 4 | hex_value(pair[1]);
    }
    Ok(Digest(bytes))
}

/// Returns whether `text` matches the OCI grammar of an algorithm: components of `[a-z0-9]+`,
/// joined by one of `+ . _ -`.
fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-']).all(|component| {
        !component.is_empty()
            && component
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

/// The two hexadecimal characters of each byte value.
const PAIRS: &str = "\
    000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
    202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f\
    404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f\
    606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f\
    808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f\
    a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf\
    c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf\
    e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

/// Returns the value of a character that is one of `0`–`9` and `a`–`f`.
fn hex_value(character: u8) -> u8 {
    match character {
        b'0'..=b'9' => character - b'0',
        _ => character.wrapping_sub(b'a').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests;
