//! Files of tokens that clients send instead of a password.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::FileErrors;
use crate::lines::{for_each_line, split_name};

/// 16 characters of base64 have 96 bits, too many to guess.
const SHORTEST_TOKEN: usize = 16;

/// Clients and proxies limit the headers of a request, often to 8 KiB.
const LONGEST_TOKEN: usize = 4096;

type TokenDigest = [u8; 32];

/// Users with digests of their tokens.
///
/// Each line of the file is `USER:TOKEN` or `USER:sha256:HEX`, the SHA-256 of a token. A user may
/// have several tokens. Empty lines and lines that start with `#` are skipped.
#[derive(Clone)]
pub struct TokenFile {
    users: HashMap<TokenDigest, String>,
}

impl TokenFile {
    /// Parses the text of a token file.
    ///
    /// # Errors
    /// If lines have another form, tokens are short or have other characters than visible ASCII,
    /// or a token is listed twice. All problems are returned.
    pub fn parse(text: &str) -> Result<Self, FileErrors> {
        let mut users = HashMap::new();
        for_each_line(text, |line| {
            let (user, token) = split_name(line)?;
            let digest = match token.strip_prefix("sha256:") {
                Some(hex) => parse_digest(user, hex)?,
                None => {
                    check_token(user, token)?;
                    digest_of(token)
                }
            };
            match users.entry(digest) {
                Entry::Occupied(entry) => Err(format!(
                    "the token of `{user}` is listed above for `{}`. Fix: remove one of them",
                    entry.get()
                )),
                Entry::Vacant(entry) => {
                    entry.insert(user.to_owned());
                    Ok(())
                }
            }
        })?;
        Ok(Self { users })
    }

    /// Returns the user of a token. How long that takes does not depend on how many characters the
    /// token has in common with a known one.
    #[must_use]
    pub fn user_of(&self, token: &str) -> Option<&str> {
        self.users.get(&digest_of(token)).map(String::as_str)
    }

    /// Returns the number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile")
            .field("tokens", &self.len())
            .finish_non_exhaustive()
    }
}

fn digest_of(token: &str) -> TokenDigest {
    Sha256::digest(token.as_bytes()).into()
}

fn check_token(user: &str, token: &str) -> Result<(), String> {
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "the token of `{user}` has a character that is not visible ASCII. \
             Fix: use letters, digits and punctuation"
        ));
    }
    if token.len() < SHORTEST_TOKEN {
        return Err(format!(
            "the token of `{user}` has under {SHORTEST_TOKEN} characters. \
             Fix: create one with `openssl rand -hex 32`"
        ));
    }
    if token.len() > LONGEST_TOKEN {
        return Err(format!(
            "the token of `{user}` has over {LONGEST_TOKEN} characters. \
             Fix: create one with `openssl rand -hex 32`"
        ));
    }
    Ok(())
}

fn parse_digest(user: &str, hex: &str) -> Result<TokenDigest, String> {
    let digits: Option<Vec<u8>> = hex
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        })
        .collect();
    let bytes = digits.filter(|digits| digits.len() % 2 == 0).map(|digits| {
        let pairs = digits.chunks_exact(2);
        pairs.map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<_>>()
    });
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| {
            format!(
                "what follows `sha256:` for `{user}` does not have 64 hexadecimal digits. \
                 Fix: print them with `printf %s TOKEN | sha256sum`"
            )
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    /// `printf %s fedcba9876543210 | sha256sum`
    const DIGEST: &str = "3465f6e6975baa864ca957f0914ecda9bf7eb601ac31ac20a5dc3d329279a843";

    #[test]
    fn tokens_lead_to_users() {
        let text = format!(
            "# tokens\n\nci:{TOKEN}\r\nci:other:token:with:colons\nbob:sha256:{DIGEST}\n\
             carol:sha256:{}\n",
            "AB".repeat(32)
        );
        let file = TokenFile::parse(&text).expect("the file is valid");
        assert_eq!(file.len(), 4);
        assert_eq!(file.user_of(TOKEN), Some("ci"));
        assert_eq!(file.user_of("other:token:with:colons"), Some("ci"));
        assert_eq!(file.user_of("fedcba9876543210"), Some("bob"));
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "0123456789ABCDEF",
        ] {
            assert_eq!(file.user_of(wrong), None, "{wrong}");
        }
        // A digest is not a token, so that the file does not reveal one.
        assert_eq!(file.user_of(DIGEST), None);
        assert_eq!(file.user_of(&format!("sha256:{DIGEST}")), None);
    }

    #[rstest]
    #[case::no_colon("0123456789abcdef0123", "no `:`")]
    #[case::no_name(":0123456789abcdef", "empty")]
    #[case::no_token("ci:", "under 16 characters")]
    #[case::short("ci:0123456789abcde", "under 16 characters")]
    #[case::space("ci:01234567 89abcdef", "visible ASCII")]
    #[case::unicode("ci:0123456789abcdefé", "visible ASCII")]
    #[case::control("ci:0123456789\u{0}abcdef", "control character")]
    #[case::short_digest("ci:sha256:abcdef0123456789", "64 hexadecimal digits")]
    #[case::odd_digest("ci:sha256:abc", "64 hexadecimal digits")]
    #[case::other_digits("ci:sha256:zz", "64 hexadecimal digits")]
    #[case::space_before_colon("alice :0123456789abcdef", "a space before the `:`")]
    #[case::reserved("anonymous:0123456789abcdef", "a meaning in policies")]
    #[case::twice("bob:fedcba98765432100", "listed above for `ci`")]
    fn a_line_of_another_form_is_refused(#[case] line: &str, #[case] expected: &str) {
        let text = format!("# tokens\nci:fedcba98765432100\n{line}\n");
        let FileErrors(errors) = TokenFile::parse(&text).expect_err("the line is wrong");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].line, 3);
        assert!(errors[0].message.contains(expected), "{errors:?}");
        let secret = line.split_once(':').map_or(line, |(_, secret)| secret);
        assert!(
            secret.len() < 2 || !errors[0].message.contains(secret),
            "{errors:?}"
        );
    }

    #[test]
    fn a_token_and_its_digest_are_the_same() {
        let text = format!("ci:fedcba9876543210\nbob:sha256:{DIGEST}");
        let errors = TokenFile::parse(&text).expect_err("they are ambiguous");
        assert_eq!(errors.0[0].line, 2);
    }

    #[test]
    fn debugging_shows_no_tokens() {
        let file = TokenFile::parse(&format!("ci:{TOKEN}")).expect("the file is valid");
        assert_eq!(format!("{file:?}"), "TokenFile { tokens: 1, .. }");
    }

    #[test]
    fn sizes_are_limited() {
        assert!(TokenFile::parse(&format!("ci:{}", "x".repeat(4096))).is_ok());
        assert!(TokenFile::parse(&format!("ci:{}", "x".repeat(4097))).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_with_lines_of_it(text in "(?s).{0,200}|([a-z]{0,3}:?(sha256:[0-9a-f]{60,66}|[!-~]{10,20})\n){0,5}") {
            if let Err(FileErrors(errors)) = TokenFile::parse(&text) {
                prop_assert!(!errors.is_empty());
                let lines = text.lines().count();
                prop_assert!(errors.iter().all(|error| (1..=lines).contains(&error.line)));
            }
        }

        #[test]
        fn only_the_token_is_known(token in "[!-~]{16,40}", other in "[!-~]{16,40}") {
            prop_assume!(!token.starts_with("sha256:"));
            let file = TokenFile::parse(&format!("ci:{token}")).expect("the token is valid");
            prop_assert_eq!(file.user_of(&token), Some("ci"));
            prop_assert_eq!(file.user_of(&other).is_some(), token == other);
        }
    }
}
