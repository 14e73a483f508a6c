//! Properties of any text that is parsed as a password file.

use nixery_access::{FileErrors, PasswordFile};

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match PasswordFile::parse(text) {
        Ok(file) => assert!(file.len() <= text.lines().count(), "{text:?}"),
        Err(FileErrors(errors)) => {
            assert!(!errors.is_empty(), "{text:?}");
            let lines = text.lines().count();
            for error in errors {
                assert!((1..=lines).contains(&error.line), "{text:?}: {error:?}");
                assert!(
                    !error.message.contains(char::is_control),
                    "{text:?}: {error:?}"
                );
            }
        }
    }
}
