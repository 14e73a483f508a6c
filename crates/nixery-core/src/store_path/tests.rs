use super::*;
use proptest::prelude::*;
use rstest::rstest;

const HASH: &str = "3n58xw4373jp0ljirf06d8077j15pc4j";

#[rstest]
#[case("/nix/store/{}-glibc-2.38", "/nix/store", "glibc-2.38", "glibc")]
#[case(
    "/nix/store/{}-glibc-2.38-bin",
    "/nix/store",
    "glibc-2.38-bin",
    "glibc"
)]
#[case(
    "/nix/store/{}-nss-cacert-3.98",
    "/nix/store",
    "nss-cacert-3.98",
    "nss-cacert"
)]
#[case(
    "/nix/store/{}-python3.11-numpy-1.26.4",
    "/nix/store",
    "python3.11-numpy-1.26.4",
    "python3.11-numpy"
)]
#[case(
    "/nix/store/{}-gcc-13-20230520",
    "/nix/store",
    "gcc-13-20230520",
    "gcc"
)]
#[case("/nix/store/{}-trailing-", "/nix/store", "trailing-", "trailing-")]
#[case("/nix/store/{}-a--b", "/nix/store", "a--b", "a")]
#[case("/home/me/store/{}-x", "/home/me/store", "x", "x")]
#[case("/{}-x", "", "x", "x")]
#[case("/nix/store/{}-.hidden", "/nix/store", ".hidden", ".hidden")]
fn parts(#[case] text: &str, #[case] dir: &str, #[case] name: &str, #[case] package: &str) {
    let text = text.replace("{}", HASH);
    let path = StorePath::parse(&text).unwrap();
    assert_eq!(
        (
            path.as_str(),
            path.store_dir(),
            path.hash_part(),
            path.name(),
            path.package_name()
        ),
        (&*text, dir, HASH, name, package)
    );
    assert_eq!(path.base_name(), format!("{HASH}-{name}"));
    assert_eq!(
        serde_json::from_str::<StorePath>(&serde_json::to_string(&path).unwrap()).unwrap(),
        path
    );
}

#[rstest]
#[case("", StorePathRule::Absolute)]
#[case("nix/store/{}-x", StorePathRule::Absolute)]
#[case("/nix//store/{}-x", StorePathRule::Directory)]
#[case("/nix/../store/{}-x", StorePathRule::Directory)]
#[case("/nix/st\nore/{}-x", StorePathRule::Directory)]
#[case("/nix/store", StorePathRule::Hash)]
#[case("/nix/store/", StorePathRule::Hash)]
#[case("/nix/store/{}", StorePathRule::Hash)]
#[case("/nix/store/{}x", StorePathRule::Hash)]
#[case("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4e-x", StorePathRule::Hash)]
#[case("/nix/store/3N58xw4373jp0ljirf06d8077j15pc4j-x", StorePathRule::Hash)]
#[case("/nix/store/ééééééééééééééééé-x", StorePathRule::Hash)]
#[case("/nix/store/{}-", StorePathRule::NameLength)]
#[case("/nix/store/{}-a b", StorePathRule::NameCharacter)]
#[case("/nix/store/{}-a~b", StorePathRule::NameCharacter)]
#[case("/nix/store/{}-ä", StorePathRule::NameCharacter)]
#[case("/nix/store/{}-.", StorePathRule::NameDots)]
#[case("/nix/store/{}-..", StorePathRule::NameDots)]
#[case("/nix/store/{}-..-x", StorePathRule::NameDots)]
#[case("/nix/store/{}-x/bin", StorePathRule::Hash)]
fn refused(#[case] text: &str, #[case] rule: StorePathRule) {
    let text = text.replace("{}", HASH);
    assert_eq!(
        StorePath::parse(&text),
        Err(StorePathError { path: text, rule })
    );
}

#[test]
fn name_length_is_bounded() {
    let path = |n: usize| format!("/nix/store/{HASH}-{}", "x".repeat(n));
    assert!(StorePath::parse(&path(MAX_NAME_LEN)).is_ok());
    assert_eq!(
        StorePath::parse(&path(MAX_NAME_LEN + 1)).unwrap_err().rule,
        StorePathRule::NameLength
    );
    let error = StorePath::parse(&"x".repeat(10_000)).unwrap_err();
    assert_eq!(error.path.len(), 300);
}

#[test]
fn order_is_that_of_the_text() {
    let parse = |text: &str| StorePath::parse(&text.replace("{}", HASH)).unwrap();
    let mut paths = [
        parse("/nix/store/{}-b"),
        parse("/a/b/c/{}-a"),
        parse("/nix/store/{}-a"),
        parse("/{}-z"),
    ];
    paths.sort();
    let mut texts: Vec<String> = paths.iter().map(ToString::to_string).collect();
    texts.sort();
    assert_eq!(
        texts,
        paths.iter().map(ToString::to_string).collect::<Vec<_>>()
    );
}

proptest! {
    #[test]
    fn never_panics_and_round_trips(text in "(/[a-z.]{0,3}){0,3}/?[0-9a-z]{30,33}-?[-a-z.0-9/ é]{0,6}|.{0,50}") {
        if let Ok(path) = StorePath::parse(&text) {
            prop_assert_eq!(path.as_str(), &text);
            prop_assert_eq!(format!("{}/{}-{}", path.store_dir(), path.hash_part(), path.name()), text);
            prop_assert!(path.name().starts_with(path.package_name()));
        }
    }
}

#[test]
fn paths_that_share_their_text_are_like_others() {
    let texts = ["/nix/store/{}-a", "/{}-b", "/a/b/{}-c"].map(|text| text.replace("{}", HASH));
    let mut paths = StorePaths::default();
    assert!(paths.push("/nix/store").is_err(), "and leaves nothing");
    for text in &texts {
        paths.push(text).unwrap();
    }
    for (path, text) in paths.finish().zip(&texts) {
        let alone = StorePath::parse(text).unwrap();
        assert_eq!((path.as_str(), &path), (&**text, &alone));
        assert_eq!(
            (path.store_dir(), path.base_name(), path.name()),
            (alone.store_dir(), alone.base_name(), alone.name())
        );
    }
    assert!(StorePaths::default().finish().next().is_none());
}
