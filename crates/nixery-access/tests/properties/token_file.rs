//! Properties of any text that is parsed as a token file.

use nixery_access::{FileErrors, TokenFile};

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match TokenFile::parse(text) {
        Ok(file) => {
            assert!(file.len() <= text.lines().count(), "{text:?}");
            check_tokens(&file, text);
        }
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

/// Every token of the file leads to its user, and neither the line nor a digest does.
fn check_tokens(file: &TokenFile, text: &str) {
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (user, token) = line.split_once(':').expect("a line has a colon");
        if !token.starts_with("sha256:") {
            assert_eq!(file.user_of(token), Some(user), "{text:?}");
        }
    }
}
