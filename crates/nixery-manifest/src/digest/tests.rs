use std::io::Write as _;

use proptest::prelude::*;
use rstest::rstest;

use super::*;

/// SHA-256 of nothing and of "abc" (FIPS 180-4, the examples NIST publishes with it).
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[rstest]
#[case(b"", EMPTY)]
#[case(b"abc", ABC)]
fn is_sha256(#[case] bytes: &[u8], #[case] hex: &str) {
    let digest = Digest::of(bytes);
    assert_eq!(digest.hex(), hex);
    assert_eq!(digest.to_string(), format!("sha256:{hex}"));
    assert_eq!(format!("{digest:?}"), format!("sha256:{hex}"));
    assert_eq!(Digest::from_hex(hex), Ok(digest));
    assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
    assert_eq!(
        serde_json::to_string(&digest).ok(),
        Some(format!("\"sha256:{hex}\""))
    );
}

#[rstest]
#[case("", DigestRule::NoAlgorithm)]
#[case(EMPTY, DigestRule::NoAlgorithm)]
#[case("sha256", DigestRule::NoAlgorithm)]
#[case("sha256:", DigestRule::Length { found: 0 })]
#[case(":abc", DigestRule::BadAlgorithm)]
#[case(" sha256:abc", DigestRule::BadAlgorithm)]
#[case("SHA256:abc", DigestRule::BadAlgorithm)]
#[case("sha256::abc", DigestRule::NotHex { found: ':', offset: 0 })]
#[case("sha256:abc", DigestRule::Length { found: 3 })]
#[case("sha256:ABC", DigestRule::NotHex { found: 'A', offset: 0 })]
#[case("sha256:abc ", DigestRule::NotHex { found: ' ', offset: 3 })]
#[case("sha256:a/../b", DigestRule::NotHex { found: '/', offset: 1 })]
#[case("sha256:é", DigestRule::NotHex { found: 'é', offset: 0 })]
fn rejects_what_is_not_a_digest(#[case] text: &str, #[case] expected: DigestRule) {
    match text.parse::<Digest>() {
        Err(DigestError::Malformed { input, rule }) => {
            assert_eq!(rule, expected);
            assert_eq!(input, text);
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn has_64_characters_exactly() {
    let long = format!("sha256:{ABC}0");
    let short = format!("sha256:{}", &ABC[1..]);
    for (text, found) in [(long, 65), (short, 63)] {
        assert!(
            matches!(
                text.parse::<Digest>(),
                Err(DigestError::Malformed { rule: DigestRule::Length { found: f }, .. }) if f == found
            ),
            "{text}"
        );
    }
    // 64 bytes, but not 64 hexadecimal characters.
    assert!(Digest::from_hex(&"é".repeat(32)).is_err());
}

#[rstest]
#[case("sha512:abc", "sha512")]
#[case("sha256+b64u:abc", "sha256+b64u")]
#[case("multihash+base58:Qm", "multihash+base58")]
fn recognizes_other_algorithms(#[case] text: &str, #[case] algorithm: &str) {
    assert_eq!(
        text.parse::<Digest>(),
        Err(DigestError::UnsupportedAlgorithm {
            algorithm: algorithm.to_owned()
        })
    );
}

#[test]
fn an_error_is_short_and_printable() {
    let hostile = format!("{}\n\x1b[31m", "x".repeat(100_000));
    let message = hostile.parse::<Digest>().unwrap_err().to_string();
    assert!(message.len() < 300, "{} bytes", message.len());
    let message = "\n\x1b[31m".parse::<Digest>().unwrap_err().to_string();
    assert!(!message.contains(char::is_control), "{message:?}");
    let algorithm = format!("{}:x", "a".repeat(100_000));
    let message = algorithm.parse::<Digest>().unwrap_err().to_string();
    assert!(message.len() < 300, "{} bytes", message.len());
}

#[test]
fn verifies_content() {
    let digest = Digest::of(b"content");
    assert_eq!(digest.verify(b"content"), Ok(()));
    let error = digest.verify(b"Content").unwrap_err();
    assert_eq!(
        error,
        DigestError::Mismatch {
            expected: digest,
            actual: Digest::of(b"Content")
        }
    );
}

#[test]
fn reads_from_json_strings_only() {
    let read = |json: &str| serde_json::from_str::<Digest>(json);
    // An escape cannot be borrowed from the document.
    assert_eq!(
        read(&format!("\"\\u0073ha256:{ABC}\"")).ok(),
        Some(Digest::of(b"abc"))
    );
    assert!(read("17").is_err());
    let error = read("\"sha256:abc\"").unwrap_err().to_string();
    assert!(error.contains("3 characters instead of 64"), "{error}");
}

proptest! {
    #[test]
    fn printing_and_parsing_are_inverse(bytes in any::<[u8; 32]>()) {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        prop_assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
        let json = serde_json::to_string(&digest)?;
        prop_assert_eq!(serde_json::from_str::<Digest>(&json)?, digest);
    }

    #[test]
    fn order_is_that_of_the_text(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
        let (a, b) = (Digest::from_bytes(a), Digest::from_bytes(b));
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
    }

    #[test]
    fn pieces_do_not_matter(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10)) {
        let whole = pieces.concat();
        let mut digester = Digester::new();
        for (index, piece) in pieces.iter().enumerate() {
            if index % 2 == 0 {
                digester.update(piece);
            } else {
                digester.write_all(piece)?;
            }
        }
        prop_assert_eq!(digester.bytes(), whole.len() as u64);
        prop_assert_eq!(digester.finish(), Digest::of(&whole));
    }
}
