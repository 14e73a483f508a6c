//! Properties of any text that is verified as a token, or parsed as a key set.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use nixery_access::{KeySet, TokenRules};

/// The only token that is valid, by a key that is used nowhere else.
const VALID: &str = include_str!("../../../../fuzz/corpus/jwt/valid");

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let json = include_bytes!("../../../../fuzz/corpus/jwt/key-set");
    KeySet::parse(json).expect("it is a key set")
});

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    if let Ok(keys) = KeySet::parse(data) {
        assert!(!keys.is_empty(), "{data:?}");
        // A key that was kept can be used.
        let _ = verify(&keys, VALID);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(verify(&KEYS, text), text == VALID, "{text:?}");
    }
}

fn verify(keys: &KeySet, token: &str) -> bool {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let rules = TokenRules::new("registry.example");
    rules.verify(keys, token, now).is_ok()
}
