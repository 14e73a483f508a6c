use super::*;
use crate::source::PackageSource;
use crate::tag::Tag;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The expected values are `printf … | sha1sum` of the joined texts.
#[test]
fn layer_keys_are_the_originals() {
    let (a, b) = ("/nix/store/a-x", "/nix/store/b-y");
    assert_eq!(
        original_layer_key(&[a, b]),
        "adad27287e8522717237a9bb0957c94957f7449a"
    );
    assert_eq!(
        original_layer_key(&[b, a]),
        "c1a05bb29fc68428210b0bde5a5f0221a219dd56",
        "as merged, unsorted"
    );
    assert_eq!(
        original_layer_key::<&str>(&[]),
        "da39a3ee5e6b4b0d3255bfef95601890afd80709"
    );
}

#[test]
fn image_keys_are_the_originals() {
    let source = PackageSource::channel(COMMIT).expect("a commit is legal");
    let source = source.resolve(&Tag::latest());
    let expected = Some("6bf6f1d01b17308bca263235d67680ee4496d26e".to_owned());
    assert_eq!(
        original_image_key(&["cacert", "git", "hello", "iana-etc"], &source),
        expected
    );
    assert_eq!(
        original_image_key(&["hello", "git", "iana-etc", "cacert"], &source),
        expected
    );
    // The weakness that keeps these keys out of everything new.
    assert_eq!(
        original_image_key(&["cacertgit", "hello", "iana-etc"], &source),
        expected
    );
}

#[test]
fn a_moving_source_has_no_image_key() {
    let tag: Tag = "stable".parse().expect("the tag is legal");
    let commit: Tag = COMMIT.parse().expect("the tag is legal");
    let channel = PackageSource::channel("nixos-26.05").expect("the channel is legal");
    let git = PackageSource::git("https://example.org/p.git").expect("the URL is legal");
    let path = PackageSource::path("/srv/packages").expect("the path is legal");
    for source in [
        channel.resolve(&commit),
        git.resolve(&tag),
        git.resolve(&Tag::latest()),
        path.resolve(&commit),
    ] {
        assert_eq!(original_image_key(&["git"], &source), None, "{source:?}");
    }
    assert!(original_image_key(&["git"], &git.resolve(&commit)).is_some());
}
