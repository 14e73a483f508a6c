//! Image tags.

use std::fmt;
use std::str::FromStr;

/// Longest tag (OCI distribution specification, "Pulling manifests").
pub const MAX_TAG_LEN: usize = 128;

/// Length of a git commit's name, which is a SHA-1 in hexadecimal.
const COMMIT_LEN: usize = 40;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (OCI distribution specification).
///
/// It selects what to build from, or is the version of a package: see
/// [`PackageSource::select`](crate::PackageSource::select).
///
/// ```
/// use nixery_core::Tag;
///
/// let tag: Tag = "nixos-26.05".parse()?;
/// assert_eq!(tag.commit(), None);
/// assert!(Tag::latest().is_latest());
/// # Ok::<(), nixery_core::TagError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// The tag that clients request if the user gives none.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// Parses a tag.
    ///
    /// # Errors
    /// [`TagError`] names the rule it broke.
    pub fn parse(text: &str) -> Result<Self, TagError> {
        let first = text.chars().next().ok_or(TagError::Empty)?;
        if text.len() > MAX_TAG_LEN {
            return Err(TagError::TooLong { bytes: text.len() });
        }
        if matches!(first, '.' | '-') {
            return Err(TagError::First { found: first });
        }
        let bad = text
            .char_indices()
            .find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
        match bad {
            Some((offset, found)) => Err(TagError::Character { found, offset }),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `latest`.
    pub fn is_latest(&self) -> bool {
        self.0 == "latest"
    }

    /// The tag, if it is the full name of a git commit: 40 lower-case hexadecimal characters.
    pub fn commit(&self) -> Option<&str> {
        is_commit(&self.0).then_some(self.as_str())
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        Self::parse(text)
    }
}

/// Is `text` the full name of a git commit?
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_LEN
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Why a text is not a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// There is no tag.
    #[error("the tag is empty")]
    Empty,
    /// The tag is longer than [`MAX_TAG_LEN`].
    #[error("the tag has {bytes} bytes, more than {MAX_TAG_LEN}")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It starts with a character that may not come first.
    #[error("the tag starts with {found:?}: only letters, digits and `_` may come first")]
    First {
        /// The character.
        found: char,
    },
    /// A character that no tag may have.
    #[error(
        "the tag has the character {found:?} at offset {offset}: only letters, digits, `.`, `_` and `-` may be used"
    )]
    Character {
        /// The character.
        found: char,
        /// Its byte offset.
        offset: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("latest")]
    #[case("26.05")]
    #[case("_under")]
    #[case("A-b.C_d")]
    #[case("a..b--c")]
    fn accepts(#[case] text: &str) {
        let tag = Tag::parse(text).expect("the tag is legal");
        assert_eq!(tag.as_str(), text);
        assert_eq!(tag.is_latest(), text == "latest");
    }

    #[rstest]
    #[case("", TagError::Empty)]
    #[case(".hidden", TagError::First { found: '.' })]
    #[case("-option", TagError::First { found: '-' })]
    #[case("a/b", TagError::Character { found: '/', offset: 1 })]
    #[case("a:b", TagError::Character { found: ':', offset: 1 })]
    #[case("é", TagError::Character { found: 'é', offset: 0 })]
    #[case("a\0", TagError::Character { found: '\0', offset: 1 })]
    fn refuses(#[case] text: &str, #[case] error: TagError) {
        assert_eq!(Tag::parse(text), Err(error));
    }

    #[test]
    fn is_at_most_128_bytes_long() {
        assert!(Tag::parse(&"a".repeat(128)).is_ok());
        assert_eq!(
            Tag::parse(&"a".repeat(129)),
            Err(TagError::TooLong { bytes: 129 })
        );
    }

    #[rstest]
    #[case("0123456789abcdef0123456789abcdef01234567", true)]
    #[case("0123456789ABCDEF0123456789abcdef01234567", false)]
    #[case("0123456789abcdef0123456789abcdef0123456", false)]
    #[case("0123456789abcdef0123456789abcdef012345678", false)]
    #[case("g123456789abcdef0123456789abcdef01234567", false)]
    fn knows_a_commit(#[case] text: &str, #[case] is_commit: bool) {
        let tag = Tag::parse(text).expect("the tag is legal");
        assert_eq!(tag.commit(), is_commit.then_some(text));
    }
}
