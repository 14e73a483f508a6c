//! Versions that tags assert.

use std::fmt;

use crate::tag::Tag;

/// Digits of a commit's full name.
const FULL_COMMIT: usize = 40;
/// Fewest digits to which git abbreviates it by itself.
const MIN_SHORT_COMMIT: usize = 7;
/// What may follow an asserted version in the version of a package.
const SEPARATORS: [char; 3] = ['.', '-', '+'];

/// A version that a tag asserts of a package: `2.39`, `v2.39.5`.
///
/// It stands for itself and for every version that continues it after `.`, `-` or `+`.
///
/// ```
/// use nixery_core::{AssertedVersion, Tag};
///
/// let tag: Tag = "2.39".parse()?;
/// let asserted = AssertedVersion::of(&tag).expect("begins with a digit");
/// assert!(asserted.matches("2.39.5"));
/// assert!(!asserted.matches("2.390"));
/// # Ok::<(), nixery_core::TagError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AssertedVersion(String);

impl AssertedVersion {
    /// Returns the version that a tag asserts: a tag that begins with a digit, after an optional
    /// `v`, and is no commit, in full or abbreviated.
    pub fn of(tag: &Tag) -> Option<Self> {
        let version = without_v(tag.as_str());
        let is_version = version.starts_with(|c: char| c.is_ascii_digit());
        (is_version && !is_like_commit(tag.as_str())).then(|| Self(version.to_owned()))
    }

    /// Returns whether the version of a package is the asserted one, or continues it.
    pub fn matches(&self, version: &str) -> bool {
        let rest = without_v(version).strip_prefix(self.0.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(SEPARATORS))
    }
}

impl fmt::Display for AssertedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text may be the name of a commit, in full or abbreviated as git does it.
fn is_like_commit(text: &str) -> bool {
    let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let has_letter = text.bytes().any(|byte| byte.is_ascii_lowercase());
    let is_short = (MIN_SHORT_COMMIT..FULL_COMMIT).contains(&text.len()) && has_letter;
    (is_short || text.len() == FULL_COMMIT) && text.bytes().all(is_hex)
}

/// Returns a version without the `v` that may stand before its first digit.
fn without_v(version: &str) -> &str {
    match version.strip_prefix('v') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => rest,
        _ => version,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn of(tag: &str) -> Option<AssertedVersion> {
        AssertedVersion::of(&Tag::parse(tag).expect("the tag is legal"))
    }

    #[rstest]
    #[case("2.39", Some("2.39"))]
    #[case("v2.39.5", Some("2.39.5"))]
    #[case("3", Some("3"))]
    #[case("0-unstable-2026-01-01", Some("0-unstable-2026-01-01"))]
    #[case("9.2p1", Some("9.2p1"))]
    #[case::date("20260101", Some("20260101"))]
    #[case::too_short_for_a_commit("9abcde", Some("9abcde"))]
    #[case::short_commit("9abcdef", None)]
    #[case::commit("0123456789abcdef0123456789abcdef01234567", None)]
    #[case("latest", None)]
    #[case("v", None)]
    #[case("version-2", None)]
    #[case("V2", None)]
    #[case("_2", None)]
    #[case("nixos-26.05", None)]
    #[case("sha256-0000", None)]
    fn begins_with_a_digit(#[case] tag: &str, #[case] version: Option<&str>) {
        let found = of(tag).map(|asserted| asserted.to_string());
        assert_eq!(found.as_deref(), version);
    }

    #[rstest]
    #[case("2.39", "2.39", true)]
    #[case("2.39", "2.39.5", true)]
    #[case("2.39", "2.39-rc1", true)]
    #[case("2.39", "2.39+git", true)]
    #[case("2", "2.39.5", true)]
    #[case("v2.39", "2.39.5", true)]
    #[case("2.39", "v2.39.5", true)]
    #[case("2.39.5", "2.39.5", true)]
    #[case("2.39", "2.390", false)]
    #[case("2.39", "2.39p1", false)]
    #[case("2.39", "2.39_1", false)]
    #[case("2.39.5", "2.39", false)]
    #[case("2.30", "2.39.5", false)]
    #[case("2.39.", "2.39.5", false)]
    #[case("2.39", "", false)]
    #[case("2.39", "12.39", false)]
    fn matches_itself_and_what_continues_it(
        #[case] tag: &str,
        #[case] version: &str,
        #[case] matches: bool,
    ) {
        let asserted = of(tag).expect("a version");
        assert_eq!(asserted.matches(version), matches);
    }

    proptest! {
        #[test]
        fn every_version_matches_the_tag_of_itself(version in "v?[0-9]{1,4}(\\.[0-9a-z.-]{0,20})?") {
            let asserted = of(&version).expect("a version");
            prop_assert!(asserted.matches(&version));
            let longer = format!("{version}.1");
            prop_assert!(asserted.matches(&longer));
        }

        #[test]
        fn any_text_is_compared(tag in "[a-z0-9_][a-z0-9._-]{0,10}", version in ".{0,20}") {
            if let Some(asserted) = of(&tag) {
                let _ = asserted.matches(&version);
            }
        }
    }
}
