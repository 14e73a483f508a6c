//! Removes this server's paths and secrets from what clients read.

use std::borrow::Cow;

use nixery_nix::{hide_credentials, hide_secrets};

use crate::text::visible;

/// Paths that are the same on every machine, and frequent in the messages of builds.
const EVERYWHERE: [&str; 4] = ["/bin/sh", "/dev/null", "/nix/store", "/usr/bin/env"];
/// Where Nix builds in a sandbox.
const BUILD_FOLDER: &str = "/build";
/// Prefix of the folder in which Nix builds without a sandbox.
const OTHER_BUILD_FOLDER: &str = "/nix-build-";

/// Replaces absolute paths outside of the Nix store by `…`, and those of Nix files by `…/FILE`.
/// Removes the folder of a relocated store from store paths, credentials from URLs, and secrets of
/// this process. Characters that cannot be seen are written as escapes, see [`visible`].
///
/// The errors of the crates below should hold no paths. This is the last line of defence, as
/// messages of Nix itself pass through them.
#[must_use]
pub(crate) fn redact(text: &str) -> String {
    let text = hide_credentials(&hide_secrets(text));
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('/') {
        let (before, from) = rest.split_at(at);
        clean.push_str(before);
        let end = from
            .find(|c: char| c.is_whitespace() || "\"'`<>()[]{},;:|‘’“”…".contains(c))
            .unwrap_or(from.len());
        let (path, after) = from.split_at(end);
        // A slash inside a word separates alternatives, the parts of an image name or of a URL.
        let inside_a_word =
            clean.chars().next_back().is_some_and(|c| {
                c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '~' | '@' | '+')
            }) || (clean.ends_with(':') && path.starts_with("//") && !path.starts_with("///"));
        if inside_a_word {
            clean.push_str(path);
        } else if let Some(shown) = shown(path) {
            clean.push_str(&shown);
        } else {
            clean.push('…');
            // The full stop of a sentence is not the path's.
            if path.ends_with('.') {
                clean.push('.');
            }
        }
        rest = after;
    }
    clean.push_str(rest);
    visible(&clean).into_owned()
}

/// Returns what is shown of a path, or `None` if it is this server's own.
fn shown(path: &str) -> Option<Cow<'_, str>> {
    if let Some(store) = path.find("/nix/store/") {
        return Some(Cow::Borrowed(&path[store..]));
    }
    if let Some(at) = path.find(OTHER_BUILD_FOLDER) {
        let inside = path[at + 1..]
            .find('/')
            .map(|slash| &path[at + 1 + slash..]);
        let inside = inside.unwrap_or_default();
        return Some(Cow::Owned(format!("{BUILD_FOLDER}{inside}")));
    }
    let in_build_folder = path
        .strip_prefix(BUILD_FOLDER)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let harmless = path.trim_matches('/').is_empty() || EVERYWHERE.contains(&path);
    if in_build_folder || harmless {
        return Some(Cow::Borrowed(path));
    }
    // The name of a file of the package set is no secret, and helps its author.
    let (_, file) = path.rsplit_once('/')?;
    file.ends_with(".nix")
        .then(|| Cow::Owned(format!("…/{file}")))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        nixery_nix::add_secret("test-secret-0815");
        assert_eq!(
            redact("it printed test-secret-0815."),
            "it printed [hidden]."
        );
    }

    #[rstest]
    #[case("cannot read /srv/nixery/spool/x.", "cannot read ….")]
    #[case("in \"/home/a/pkgs/default.nix\":3", "in \"…/default.nix\":3")]
    #[case("at /home/a/default.nix:3:1", "at …/default.nix:3:1")]
    #[case("(/etc/nix/nix.conf)", "(…)")]
    #[case("file:///etc/passwd", "file:…")]
    #[case("fetch https://user:secret@host/a.git", "fetch https://host/a.git")]
    #[case(
        "/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-git-2.drv failed",
        "/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-git-2.drv failed"
    )]
    #[case(
        "\"/srv/chroot/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-git/bin\" is a socket",
        "\"/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-git/bin\" is a socket"
    )]
    #[case("the Nix store /nix/store is full", "the Nix store /nix/store is full")]
    #[case(
        "image shell/git, see https://host/builds/1",
        "image shell/git, see https://host/builds/1"
    )]
    #[case("/bin/sh: cannot read /etc/motd", "/bin/sh: cannot read …")]
    #[case("/build/hello/a.c:3: error", "/build/hello/a.c:3: error")]
    #[case("/builder/x", "…")]
    #[case("/tmp/nix-build-a-1.drv-0/hello/a.c:3", "/build/hello/a.c:3")]
    #[case("cd /tmp/nix-build-a-1.drv-0", "cd /build")]
    #[case("/srv/a\u{202e}b \u{202e}c", "… \\u{202e}c")]
    #[case("and/or", "and/or")]
    #[case("1 / 2", "1 / 2")]
    #[case("", "")]
    fn only_store_paths_are_shown(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(redact(text), expected);
    }
}
