//! Files of tokens that clients send instead of a password.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::FileErrors;
use crate::lines::{for_each_line, split_name};

/// 16 characters of base64 have 96 bits, which nobody guesses.
const SHORTEST_TOKEN: usize = 16;

/// Longer ones do not fit into the header of a request with others.
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

    /// Returns the user whose token it is. How long that takes does not depend on how many
    /// characters are those of a known token.
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
