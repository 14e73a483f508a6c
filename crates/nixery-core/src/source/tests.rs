use proptest::prelude::*;
use rstest::rstest;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn tag(text: &str) -> Tag {
    text.parse().expect("the tag is legal")
}

#[rstest]
#[case("nixos-26.05", None)]
#[case("nixpkgs-unstable", None)]
#[case(COMMIT, Some(COMMIT))]
fn renders_a_channel(#[case] channel: &str, #[case] revision: Option<&str>) {
    let source = PackageSource::channel(channel).expect("the channel is legal");
    // The tag of the image has nothing to say.
    for tag in [Tag::latest(), tag("stable"), tag(COMMIT)] {
        let resolved = source.resolve(&tag);
        assert_eq!(resolved.src_type, "nixpkgs");
        assert_eq!(resolved.src_args, channel);
        assert_eq!(resolved.revision.as_deref(), revision);
    }
}

/// As the original renders it, keys in the same order.
#[rstest]
#[case("latest", r#"{"url":"https://example.org/p.git"}"#, None)]
#[case(
    "stable",
    r#"{"ref":"stable","url":"https://example.org/p.git"}"#,
    None
)]
#[case("v1.0", r#"{"ref":"v1.0","url":"https://example.org/p.git"}"#, None)]
#[case(
    COMMIT,
    r#"{"rev":"0123456789abcdef0123456789abcdef01234567","url":"https://example.org/p.git"}"#,
    Some(COMMIT)
)]
#[case(
    "0123456",
    r#"{"ref":"0123456","url":"https://example.org/p.git"}"#,
    None
)]
fn renders_a_repository(#[case] at: &str, #[case] arguments: &str, #[case] revision: Option<&str>) {
    let source = PackageSource::git("https://example.org/p.git").expect("the URL is legal");
    let resolved = source.resolve(&tag(at));
    assert_eq!(resolved.src_type, "git");
    assert_eq!(resolved.src_args, arguments);
    assert_eq!(resolved.revision.as_deref(), revision);
}

#[test]
fn renders_a_path() {
    let source = PackageSource::path("/srv/packages").expect("the path is legal");
    let resolved = source.resolve(&tag(COMMIT));
    assert_eq!(resolved.src_type, "path");
    assert_eq!(resolved.src_args, "/srv/packages");
    assert_eq!(resolved.revision, None, "a directory's contents change");
}

#[rstest]
#[case("https://example.org/p.git")]
#[case("http://127.0.0.1:8080/p")]
#[case("ssh://git@example.org/p.git")]
#[case("git+ssh://git@example.org/p.git")]
#[case("file:///srv/p.git")]
#[case("/srv/p.git")]
#[case("git@example.org:team/p.git")]
#[case("https://example.org/a%20b?x=y")]
#[case("https://[::1]/p.git")]
#[case("https://user:a%2Fb@[::1]:8443/p.git")]
fn accepts_repositories(#[case] repository: &str) {
    assert_eq!(
        PackageSource::git(repository),
        Ok(PackageSource::Git {
            repository: repository.to_owned()
        })
    );
}

#[rstest]
#[case("", "the git repository is empty")]
#[case("https://a b", "has the character ' ' at offset 9")]
#[case(
    "https://example.org/\n--upload-pack",
    "has the character '\\n' at offset 20"
)]
#[case("a\0b", "has the character '\\0' at offset 1")]
#[case("--upload-pack=x", "starts with `-`")]
#[case("ssh://-oProxyCommand=x/p", "its host starts with `-`")]
#[case("ssh://git@-oProxyCommand=x/p", "its host starts with `-`")]
#[case("git@-oProxyCommand=x:p", "its host starts with `-`")]
#[case("ext::sh", "transport that runs a command")]
#[case("fd::17/x", "transport that runs a command")]
#[case("packages", "is not an address")]
#[case("../packages", "is not an address")]
#[case("https://", "is not an address")]
#[case("example.org/p:1", "is not an address")]
#[case("1http://example.org", "is not an address")]
#[case("ssh://u:p@-oProxyCommand=x/p", "its host starts with `-`")]
#[case("ssh://git@example.org:team/p", "has a port that is not a number")]
#[case(
    "https://user:pass/word@example.org/p",
    "has a port that is not a number"
)]
fn refuses_repositories(#[case] repository: &str, #[case] message: &str) {
    let error = PackageSource::git(repository).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[rstest]
#[case("", "the channel is empty")]
#[case("nixos 26.05", "has the character ' ' at offset 5")]
#[case("nixos\n", "has the character '\\n' at offset 5")]
#[case("nixos?x", "has the character '?' at offset 5")]
#[case("${x}", "has the character '$' at offset 0")]
#[case("--option", "starts with `.` or `-`")]
#[case("../../evil/archive/x", "starts with `.` or `-`")]
#[case("a//b", "a part that is empty")]
#[case("/a", "a part that is empty")]
fn refuses_channels(#[case] channel: &str, #[case] message: &str) {
    let error = PackageSource::channel(channel).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[rstest]
#[case("", "the package path is empty")]
#[case("packages", "package path `packages` is not absolute")]
#[case("./packages", "is not absolute")]
#[case("/srv/../etc", "package path `/srv/../etc` goes through `..`")]
#[case("/srv/a\nb", "has control characters or is not UTF-8")]
fn refuses_paths(#[case] path: &str, #[case] message: &str) {
    let error = PackageSource::path(path).unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
}

#[cfg(unix)]
#[test]
fn refuses_a_path_that_is_not_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let path = PathBuf::from(OsStr::from_bytes(b"/srv/\xff"));
    let error = PackageSource::path(path).unwrap_err();
    let invalid = SourceError::Invalid {
        what: "package path",
        value: "/srv/\u{fffd}".to_owned(),
        rule: SourceRule::PathText,
    };
    assert_eq!(error, invalid);
}

#[rstest]
#[case("https://user:secret@example.org/p", "git https://…@example.org/p")]
#[case("https://token@example.org", "git https://…@example.org")]
#[case("https://user:p@ss@example.org/a@b", "git https://…@example.org/a@b")]
#[case("https://example.org/a@b", "git https://example.org/a@b")]
#[case("git@example.org:p", "git git@example.org:p")]
#[case("/srv/p", "git /srv/p")]
fn shows_no_password(#[case] repository: &str, #[case] shown: &str) {
    let source = PackageSource::git(repository).expect("the repository is legal");
    assert_eq!(source.to_string(), shown);
}

#[rstest]
#[case("https://user:secret@example.org/a b")]
#[case("https://user:/secret@example.org/a")]
#[case("https://user:sec ret@example.org/a")]
#[case("https://user:/x?secret#@example.org")]
fn an_error_shows_no_password(#[case] repository: &str) {
    let error = PackageSource::git(repository).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(
        !shown.contains("secret") && !shown.contains("ret@"),
        "{shown}"
    );
}

#[test]
fn the_debug_form_shows_no_password() {
    let source = PackageSource::git("https://user:secret@example.org/p").expect("legal");
    let shown = format!("{source:?} {:?}", source.resolve(&Tag::latest()));
    assert!(
        shown.contains("https://example.org/p") && !shown.contains("secret"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn arguments_of_a_repository_are_json_that_reads_back(
        path in "[!-~]{1,20}",
        at in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
    ) {
        let repository = format!("https://example.org/{path}");
        let resolved = PackageSource::git(&repository)
            .expect("printable ASCII is legal in a path")
            .resolve(&tag(&at));
        let arguments: serde_json::Value = serde_json::from_str(&resolved.src_args)?;
        prop_assert_eq!(&arguments["url"], &repository);
        if at != "latest" {
            prop_assert_eq!(&arguments["ref"], &at);
        }
    }
}
