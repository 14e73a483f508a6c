//! Making Nix's messages fit for clients: no paths of the server, no credentials, one sentence.

/// Longest message shown to a client, in characters.
const MAX_CHARS: usize = 600;

/// The essential part of a message: its first paragraph on one line, bounded, with paths of the
/// server outside the Nix store cut to their last component and credentials in URLs removed.
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

/// `https://user:secret@host` → `https://host`.
pub fn hide_credentials(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::with_capacity(text.len());
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || "'\"`?#".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(user) => &after[user + 1..],
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

/// `/srv/pkgs/default.nix` → `…/default.nix`. Store paths, URLs and what is not an absolute path
/// stay.
fn hide_paths(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    while let Some(c) = rest.chars().next() {
        let starts =
            c == '/' && !before.is_some_and(|b: char| b.is_alphanumeric() || "/.:_-~…".contains(b));
        let local_url = rest.starts_with("file:///");
        if !starts && !local_url {
            clean.push(c);
            rest = &rest[c.len_utf8()..];
            before = Some(c);
            continue;
        }
        let path_at = if local_url { "file://".len() } else { 0 };
        let ends = |c: char| c.is_whitespace() || "'\"`:,;()[]{}<>?".contains(c);
        let path = &rest[path_at..];
        let path = &path[..path.find(ends).unwrap_or(path.len())];
        let (scheme, _) = rest.split_at(path_at);
        rest = &rest[path_at + path.len()..];
        clean.push_str(scheme);
        if path.starts_with("/nix/store/") || path.len() == 1 {
            clean.push_str(path);
        } else {
            let name = path
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or_default();
            clean.push_str("…/");
            clean.push_str(name);
        }
        before = clean.chars().next_back();
    }
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
