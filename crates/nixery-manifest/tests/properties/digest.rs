//! Properties of digests for any bytes, as their text and as content.

use nixery_manifest::{Digest, Digester};

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    content(data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parsed = text.parse::<Digest>();
    assert_eq!(parsed.is_ok(), is_digest(text), "{text:?}");
    match parsed {
        Ok(digest) => {
            // A digest is a key and must have one spelling.
            assert_eq!(digest.to_string(), text);
            let json = serde_json::to_string(&digest).expect("a digest serialises");
            let read: Digest = serde_json::from_str(&json).expect("and reads back");
            assert_eq!(read, digest);
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
            assert!(message.len() < 2_000, "{message}");
        }
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| "0123456789abcdef".contains(c)))
}

fn content(data: &[u8]) {
    let digest = Digest::of(data);
    assert_eq!(digest.verify(data), Ok(()));
    let (start, end) = data.split_at(data.len() / 2);
    assert_eq!(digest.verify(start).is_ok(), end.is_empty());
    let mut digester = Digester::new();
    digester.update(start);
    digester.update(end);
    assert_eq!(digester.bytes(), data.len() as u64);
    assert_eq!(digester.finish(), digest);
}
