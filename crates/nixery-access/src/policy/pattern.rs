//! Patterns of texts, and of the dotted names of packages.

use wildmatch::WildMatch;

/// A text with `*` for any characters and `?` for one. Matching takes at most the product of both
/// lengths.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Glob {
    /// There is neither `*` nor `?`.
    Text(Box<str>),
    Wild(WildMatch),
}

impl Glob {
    pub(super) fn new(pattern: &str) -> Self {
        if is_wild(pattern) {
            Self::Wild(WildMatch::new(pattern))
        } else {
            Self::Text(pattern.into())
        }
    }

    /// For [`matches_without_case`](Self::matches_without_case).
    fn without_case(pattern: &str) -> Self {
        if is_wild(pattern) {
            Self::Wild(WildMatch::new_case_insensitive(pattern))
        } else {
            Self::Text(pattern.into())
        }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Text(expected) => **expected == *text,
            Self::Wild(pattern) => pattern.matches(text),
        }
    }

    fn matches_without_case(&self, text: &str) -> bool {
        match self {
            Self::Text(expected) => expected.eq_ignore_ascii_case(text),
            Self::Wild(pattern) => pattern.matches(text),
        }
    }

    /// Whether every text matches.
    pub(super) fn matches_everything(&self) -> bool {
        matches!(self, Self::Wild(pattern) if pattern.pattern_chars() == ['*'])
    }

    /// Whether it has no `*` and no `?`, and is the text.
    pub(super) fn is_exactly(&self, text: &str) -> bool {
        matches!(self, Self::Text(expected) if **expected == *text)
    }
}

fn is_wild(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// A pattern of package names, compared without case. `*` and `?` do not match the dots between
/// the parts of a name, because a dot leads to another package: `git.stdenv.cc` is a compiler.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PackagePattern {
    /// The pattern `*`, which matches names with dots too.
    Everything,
    /// One pattern for each part of the name.
    Parts(Vec<Glob>),
}

impl PackagePattern {
    /// Compiles a pattern of ASCII characters.
    pub(super) fn new(pattern: &str) -> Self {
        if pattern == "*" {
            return Self::Everything;
        }
        Self::Parts(
            pattern
                .split('.')
                .map(|part| Glob::without_case(as_requested(part)))
                .collect(),
        )
    }

    /// Whether it matches the whole name.
    pub(super) fn matches(&self, package: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Parts(parts) => {
                start_matches(parts, package) && package.split('.').count() == parts.len()
            }
        }
    }

    /// Whether it matches consecutive parts of the name: `telnet` is within `pkgs.telnet.out`.
    pub(super) fn is_within(&self, package: &str) -> bool {
        let Self::Parts(parts) = self else {
            return true;
        };
        let mut rest = Some(package);
        while let Some(names) = rest {
            if start_matches(parts, names) {
                return true;
            }
            rest = names.split_once('.').map(|(_, rest)| rest);
        }
        false
    }
}

/// Whether patterns match the first parts of a name, each one part.
fn start_matches(parts: &[Glob], package: &str) -> bool {
    let mut names = package.split('.');
    parts.iter().all(|part| {
        let name = names.next();
        name.is_some_and(|name| part.matches_without_case(name))
    })
}

/// Returns a part of an attribute's name as image names have it: without the `_` that attributes
/// need before a digit.
fn as_requested(part: &str) -> &str {
    match part.strip_prefix('_') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => rest,
        _ => part,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("latest", "latest", true)]
    #[case("latest", "Latest", false)]
    #[case("release-*", "release-", true)]
    #[case("release-*", "release-26.05", true)]
    #[case("release-*", "pre-release-1", false)]
    #[case("v?", "v1", true)]
    #[case("v?", "v", false)]
    #[case("v?", "v10", false)]
    #[case("*a*b", "xaxbxb", true)]
    #[case("*a*b", "xbxa", false)]
    #[case("**", "", true)]
    #[case("git https://example.org/*", "git https://example.org/a/b.git", true)]
    fn a_star_is_any_text_and_a_question_mark_one_character(
        #[case] pattern: &str,
        #[case] text: &str,
        #[case] matches: bool,
    ) {
        assert_eq!(Glob::new(pattern).matches(text), matches);
    }

    #[rstest]
    #[case("git", "git", true, true)]
    #[case("Git", "git", true, true)]
    #[case("bashinteractive", "bashInteractive", true, true)]
    #[case("bash*", "bashInteractive", true, true)]
    #[case("BASHI*", "bashInteractive", true, true)]
    #[case("_7zip", "7zip", true, true)]
    #[case("7zip", "7zip", true, true)]
    #[case("x._7zip", "x.7zip", true, true)]
    #[case("*", "a.b.c", true, true)]
    #[case("git*", "gitminimal", true, true)]
    #[case("git*", "git.stdenv.cc", false, true)]
    #[case("git", "git.out", false, true)]
    #[case("telnet", "pkgs.telnet", false, true)]
    #[case("telnet", "pkgs.telnet.out", false, true)]
    #[case("telnet", "pkgs.telnetd", false, false)]
    #[case("python3packages.*", "python3packages.numpy", true, true)]
    #[case("python3packages.*", "python3packages.numpy.stdenv", false, true)]
    #[case("python3packages.*", "python3packages", false, false)]
    #[case("python3packages.*.*", "python3packages.numpy.dist", true, true)]
    #[case("a?b", "a.b", false, false)]
    #[case("a.b", "x.a.b.y", false, true)]
    #[case("a.b", "a.x.b", false, false)]
    fn packages(
        #[case] pattern: &str,
        #[case] package: &str,
        #[case] matches: bool,
        #[case] within: bool,
    ) {
        let pattern = PackagePattern::new(pattern);
        assert_eq!(pattern.matches(package), matches);
        assert_eq!(pattern.is_within(package), within);
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let start = Instant::now();
        let text = "a".repeat(255);
        for _ in 0..100 {
            assert!(!Glob::new(&format!("{}b", "*a".repeat(100))).matches(&text));
            assert!(!PackagePattern::new(&"*a*?".repeat(100)).matches("a.b"));
        }
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn what_matches_is_within(pattern in "[a-c*?._]{1,8}", package in "[a-c._]{1,10}") {
            let pattern = PackagePattern::new(&pattern);
            prop_assert!(!pattern.matches(&package) || pattern.is_within(&package));
            if pattern.is_within(&package) {
                let longer = format!("x.{package}.x");
                prop_assert!(pattern.is_within(&longer));
            }
        }

        #[test]
        fn globs_match_what_a_plain_recursion_matches(
            pattern in "[ab*?]{0,8}",
            text in "[ab]{0,8}",
        ) {
            fn plain(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern, text) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => {
                        (0..=text.len()).any(|skipped| plain(rest, &text[skipped..]))
                    }
                    ([b'?', rest @ ..], [_, text @ ..]) => plain(rest, text),
                    ([expected, rest @ ..], [found, text @ ..]) => {
                        expected == found && plain(rest, text)
                    }
                    _ => false,
                }
            }
            let expected = plain(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(Glob::new(&pattern).matches(&text), expected);
        }
    }
}
