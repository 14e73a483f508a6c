//! Properties of any text from which credentials are removed.

use nixery_nix::hide_credentials;

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let clean = hide_credentials(text);
    assert!(clean.len() <= text.len(), "{text:?}");
    assert_eq!(hide_credentials(&clean), clean, "once is enough: {text:?}");
}
