//! The hash of a store path's NAR serialisation, in each of the forms Nix prints.

use std::fmt;

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeSliceError, Engine};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base32;

/// Characters of a SHA-256 in Nix base 32: 256 bits, five each.
const BASE32_LEN: usize = 52;

/// SHA-256 of a path's NAR. The value does not depend on the form that it was read from.
///
/// Reads `sha256:<52 Nix base 32>` (reference graphs, narinfo), `sha256:<64 hex>` and the SRI form
/// `sha256-<base64>` (`nix path-info`); prints SRI.
///
/// ```
/// use nixery_core::NarHash;
/// let sri = NarHash::parse("sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=")?;
/// let base32 = NarHash::parse("sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s")?;
/// assert_eq!(sri, base32);
/// # Ok::<(), nixery_core::NarHashError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarHash([u8; 32]);

/// Why a text is not a NAR hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a NAR hash: {problem}")]
#[non_exhaustive]
pub struct NarHashError {
    /// The text as given, cut to 100 characters.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl NarHash {
    /// The hash of these 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses any of the forms.
    ///
    /// # Errors
    /// The text has another algorithm, a wrong length, or an invalid character or padding.
    pub fn parse(text: &str) -> Result<Self, NarHashError> {
        decode(text).map(Self).map_err(|problem| NarHashError {
            text: text.chars().take(100).collect(),
            problem,
        })
    }
}

fn decode(text: &str) -> Result<[u8; 32], &'static str> {
    if let Some(base64) = text.strip_prefix("sha256-") {
        let mut bytes = [0; 32];
        return match STANDARD.decode_slice(base64, &mut bytes) {
            Ok(32) => Ok(bytes),
            Ok(_) | Err(DecodeSliceError::OutputSliceTooSmall) => {
                Err("the base64 text must encode 32 bytes")
            }
            Err(DecodeSliceError::DecodeError(_)) => Err("the text after `sha256-` is not base64"),
        };
    }
    let digits = text
        .strip_prefix("sha256:")
        .ok_or("it must start with `sha256:` or `sha256-`")?;
    match digits.len() {
        64 => decode_hex(digits.as_bytes()),
        BASE32_LEN => decode_base32(digits.as_bytes()),
        _ => Err("a SHA-256 has 52 characters in Nix base 32 or 64 in hexadecimal"),
    }
}

fn decode_hex(digits: &[u8]) -> Result<[u8; 32], &'static str> {
    let nibble = |digit: u8| {
        (digit as char)
            .to_digit(16)
            .ok_or("a character is not hexadecimal")
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
    }
    Ok(bytes)
}

/// Nix base 32 writes the number that the bytes are in little-endian order, most significant digit
/// first.
fn decode_base32(digits: &[u8]) -> Result<[u8; 32], &'static str> {
    let mut bytes = [0u8; 32];
    // Eight digits are five bytes; the last group, of the first four digits, has two bytes.
    for (group, five) in digits.rchunks(8).zip(bytes.chunks_mut(5)) {
        let (mut value, mut all) = (0u64, 0);
        for &digit in group {
            let digit = base32::VALUES[digit as usize];
            value = value << 5 | u64::from(digit & 31);
            all |= digit;
        }
        if all >= 32 {
            return Err("a character is not of Nix base 32");
        }
        let written = value.to_le_bytes();
        five.copy_from_slice(&written[..five.len()]);
        // 52 digits are 260 bits. The top four must be zero, so that a hash has only one text.
        if written[five.len()..].iter().any(|&byte| byte != 0) {
            return Err("its first character is too large for 256 bits");
        }
    }
    Ok(bytes)
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256-{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for NarHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NarHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    /// SHA-256 of "abc" in the three forms, as `nix hash to-sri`, `to-base32` and `to-base16` print
    /// it.
    const HEX: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const BASE32: &str = "sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s";
    const SRI: &str = "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";

    #[rstest]
    #[case(HEX)]
    #[case(BASE32)]
    #[case(SRI)]
    #[case("sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD")]
    fn all_forms_are_one_value(#[case] text: &str) {
        assert_eq!(NarHash::parse(text).unwrap().to_string(), SRI);
    }

    #[rstest]
    #[case("", "it must start")]
    #[case("sha1:kcgjh0xmcjc7vmhpcfq4szrm3gsrwyc8", "it must start")]
    #[case("sha512-AAAA", "it must start")]
    #[case("sha256:", "52 characters")]
    #[case(
        "sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5",
        "52 characters"
    )]
    #[case(
        "sha256:eb8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        "not of Nix base 32"
    )]
    #[case(
        "sha256:zb8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        "too large"
    )]
    #[case(
        "sha256:xx7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "not hexadecimal"
    )]
    #[case("sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0", "not base64")]
    #[case("sha256-ungW", "32 bytes")]
    fn refused(#[case] text: &str, #[case] problem: &str) {
        let error = NarHash::parse(text).unwrap_err();
        assert!(error.problem.contains(problem), "{error}");
    }

    proptest! {
        #[test]
        fn sri_and_hex_round_trip(bytes: [u8; 32]) {
            let hash = NarHash::from_bytes(bytes);
            prop_assert_eq!(NarHash::parse(&hash.to_string()).unwrap(), hash);
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            prop_assert_eq!(NarHash::parse(&format!("sha256:{hex}")).unwrap(), hash);
        }

        #[test]
        fn never_panics(text in "sha256[:-].{0,70}|.{0,60}|sha256:[0-9a-z]{52}") {
            let _ = NarHash::parse(&text);
        }
    }
}
