//! The refs of a repository that images can be built from.

use std::fmt;
use std::str::FromStr;

/// Below this name a mirror keeps the refs of its repository: `refs/heads/main` is
/// `refs/mirror/heads/main`. So no ref of the repository has a meaning of its own in the mirror.
pub(super) const MIRRORED: &str = "refs/mirror/";
/// What the refs that clients may name begin with in a mirror, in the order in which a tag is
/// looked up.
pub(super) const NAMED: [&str; 2] = ["refs/mirror/heads/", "refs/mirror/tags/"];

/// Which refs of a git repository images can be built from. Commits that none of them contains
/// are refused.
///
/// A pattern is the name of a ref, `refs/heads/main`, or has one `*` for any characters, slashes
/// included, as in git's refspecs: `refs/heads/release-*`. The default is all branches and tags,
/// and so not what hosts keep of proposed changes: `refs/pull/*`, `refs/merge-requests/*`.
///
/// ```
/// use nixery_nix::RefPatterns;
///
/// let patterns: RefPatterns = "refs/heads/main, refs/tags/v*".parse()?;
/// assert_eq!(patterns.to_string(), "refs/heads/main refs/tags/v*");
/// # Ok::<(), nixery_nix::RefPatternError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefPatterns(Vec<String>);

impl Default for RefPatterns {
    fn default() -> Self {
        Self(["refs/heads/*", "refs/tags/*"].map(str::to_owned).into())
    }
}

impl RefPatterns {
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Patterns are separated by commas or white space.
impl FromStr for RefPatterns {
    type Err = RefPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let patterns = text.split(|c: char| c == ',' || c.is_whitespace());
        let patterns = patterns.filter(|pattern| !pattern.is_empty());
        let mut valid: Vec<String> = Vec::new();
        for pattern in patterns {
            if !is_pattern(pattern) {
                let pattern = pattern.escape_debug().to_string();
                return Err(RefPatternError::Invalid { pattern });
            }
            if !valid.iter().any(|known| known == pattern) {
                valid.push(pattern.to_owned());
            }
        }
        if valid.is_empty() {
            return Err(RefPatternError::Empty);
        }
        Ok(Self(valid))
    }
}

impl fmt::Display for RefPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// Why a text names no refs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefPatternError {
    /// There is no pattern.
    #[error("the list has no pattern")]
    Empty,
    /// A pattern is not one of full names of refs.
    #[error(
        "`{pattern}` is not a pattern of refs: it must begin with `refs/` and have at most one `*`"
    )]
    Invalid {
        /// The pattern, with control characters escaped.
        pattern: String,
    },
}

/// Whether the text is a full name of a ref (git-check-ref-format) with at most one `*`.
fn is_pattern(text: &str) -> bool {
    let illegal = |c: char| c.is_control() || c.is_whitespace() || "~^:?[\\".contains(c);
    let legal_part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    text.strip_prefix("refs/")
        .is_some_and(|rest| rest.split('/').all(legal_part))
        && !text.contains(illegal)
        && !text.contains("..")
        && !text.contains("@{")
        && !text.ends_with('.')
        && text.matches('*').count() <= 1
}

/// Whether `name` can be the last part of a ref's name. Tags of images may be what git refuses:
/// `a..b`, `a.lock`.
pub(super) fn is_ref_part(name: &str) -> bool {
    !name.contains('*') && is_pattern(&format!("refs/heads/{name}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("refs/heads/*", "refs/heads/*")]
    #[case(
        " refs/heads/main,refs/tags/v*\n,, refs/heads/main",
        "refs/heads/main refs/tags/v*"
    )]
    #[case("refs/*", "refs/*")]
    #[case("refs/pull/*/head", "refs/pull/*/head")]
    fn patterns_are_separated_by_commas_or_space(#[case] text: &str, #[case] patterns: &str) {
        let parsed: RefPatterns = text.parse().expect(text);
        assert_eq!(parsed.to_string(), patterns);
    }

    #[rstest]
    #[case("")]
    #[case(" , ")]
    #[case("main")]
    #[case("HEAD")]
    #[case("refs/")]
    #[case("refs/heads/")]
    #[case("refs/heads/*/*")]
    #[case("refs//main")]
    #[case("refs/heads/a..b")]
    #[case("refs/heads/a:refs/heads/b")]
    #[case("+refs/heads/a")]
    #[case("^refs/heads/a")]
    #[case("--upload-pack=x")]
    #[case("refs/heads/a.lock")]
    #[case("refs/heads/.a")]
    #[case("refs/heads/a@{1}")]
    #[case("refs/heads/[ab]")]
    fn what_is_no_pattern_is_refused(#[case] text: &str) {
        text.parse::<RefPatterns>().expect_err(text);
    }

    #[rstest]
    #[case("main", true)]
    #[case("26.05", true)]
    #[case("a..b", false)]
    #[case("a.lock", false)]
    #[case("a.", false)]
    fn tags_that_git_refuses_are_no_refs(#[case] tag: &str, #[case] is_ref: bool) {
        assert_eq!(is_ref_part(tag), is_ref);
    }

    proptest! {
        #[test]
        fn any_text_is_patterns_or_an_error(text in "[ -~]{0,40}|refs/[a-z*./@{:-]{0,20}") {
            if let Ok(patterns) = text.parse::<RefPatterns>() {
                for pattern in patterns.iter() {
                    prop_assert!(pattern.starts_with("refs/"));
                    prop_assert!(!pattern.contains(':'));
                }
                prop_assert_eq!(patterns.to_string().parse(), Ok(patterns));
            }
        }
    }
}
