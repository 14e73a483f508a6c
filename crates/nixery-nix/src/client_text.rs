//! Shortens Nix's messages for clients: no paths of the server, no credentials, one paragraph.

use nixery_core::hide_credentials;

/// Longest message shown to a client, in characters.
const MAX_CHARS: usize = 600;

/// Returns the essential part of a message: its first paragraph on one line, bounded, with paths of
/// the server outside the Nix store cut to their last component, and without credentials in URLs.
pub(crate) fn client_message(text: &str) -> String {
    let paragraph = text
        .trim()
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let line = paragraph.collect::<Vec<_>>().join(" ");
    let line = hide_paths(&hide_credentials(&line));
    if line.chars().count() <= MAX_CHARS {
        return line;
    }
    line.chars().take(MAX_CHARS).chain(['…']).collect()
}

/// Returns the text with absolute paths cut to their last component: `/srv/pkgs/default.nix`
/// becomes `…/default.nix`. Store paths, URLs and relative paths stay.
fn hide_paths(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "'\"`:,;()[]{}<>?".contains(c);
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        clean.push_str(&rest[..at]);
        rest = &rest[at..];
        if clean.ends_with("file:") && rest.starts_with("///") {
            clean.push_str("//");
            rest = &rest[2..];
        } else if clean.ends_with(|c: char| c.is_alphanumeric() || "/.:_-~…".contains(c)) {
            clean.push('/');
            rest = &rest[1..];
            continue;
        }
        let (path, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        rest = after;
        if path.starts_with("/nix/store/") || path.len() == 1 {
            clean.push_str(path);
        } else {
            let name = path.trim_end_matches('/').rsplit('/').next();
            clean.push_str("…/");
            clean.push_str(name.unwrap_or_default());
        }
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "undefined variable 'x' at /srv/pkgs/default.nix:3:1",
        "undefined variable 'x' at …/default.nix:3:1"
    )]
    #[case("file '/tmp/a/b.nix' is odd", "file '…/b.nix' is odd")]
    #[case(
        "(path /srv/pkgs/) has no default.nix",
        "(path …/pkgs) has no default.nix"
    )]
    #[case("/nix/store/abc-x/y stays", "/nix/store/abc-x/y stays")]
    #[case("https://example.org/a/b stays", "https://example.org/a/b stays")]
    #[case("git+file:///home/me/repo?ref=x", "git+file://…/repo?ref=x")]
    #[case("and/or 1 / 2", "and/or 1 / 2")]
    #[case(
        "clone https://me:s3cret@example.org/x.git",
        "clone https://example.org/x.git"
    )]
    #[case(
        "ssh://git@example.org/x and https://a@b",
        "ssh://example.org/x and https://b"
    )]
    #[case(
        "cannot read https://me:a?b#c@example.org/x.git",
        "cannot read https://example.org/x.git"
    )]
    #[case(
        "Package has an unfree license,\n  refusing.\n\na) To allow it\n",
        "Package has an unfree license, refusing."
    )]
    fn messages_for_clients(#[case] text: &str, #[case] message: &str) {
        assert_eq!(client_message(text), message);
    }

    #[test]
    fn messages_are_bounded() {
        assert_eq!(
            client_message(&"ä".repeat(10_000)).chars().count(),
            MAX_CHARS + 1
        );
    }
}
