use proptest::prelude::*;
use rstest::rstest;

use super::*;
use ComponentRule::{Capital, Character, Empty, LeadingSeparator, Separators, TrailingSeparator};

fn parse(text: &str) -> ImageName {
    ImageName::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The first four are the original's own test vectors.
#[rstest]
#[case("hello", "hello", "cacert hello iana-etc")]
#[case("hello/git/htop", "git/hello/htop", "cacert git hello htop iana-etc")]
#[case(
    "shell",
    "shell",
    "bashInteractive cacert coreutils iana-etc moreutils nano"
)]
#[case(
    "shell/htop",
    "htop/shell",
    "bashInteractive cacert coreutils htop iana-etc moreutils nano"
)]
#[case("hello/hello", "hello", "cacert hello iana-etc")]
#[case("cacert/hello", "cacert/hello", "cacert hello iana-etc")]
#[case("git/shell", "git/shell", "cacert git iana-etc shell")]
#[case("git/arm64", "arm64/git", "arm64 cacert git iana-etc")]
#[case(
    "python3packages.numpy",
    "python3packages.numpy",
    "cacert iana-etc python3packages.numpy"
)]
#[case("7zip", "7zip", "7zip cacert iana-etc")]
#[case(
    "a--b/c__d/e_f/g.h/i---j",
    "a--b/c__d/e_f/g.h/i---j",
    "a--b c__d cacert e_f g.h i---j iana-etc"
)]
fn expands(#[case] text: &str, #[case] canonical: &str, #[case] packages: &str) {
    let name = parse(text);
    assert_eq!(name.as_str(), text);
    assert_eq!(name.canonical(), canonical);
    assert_eq!(name.packages().join(" "), packages);
    assert_eq!(name.architecture(), Architecture::Amd64);
}

#[rstest]
#[case("hello", 1)]
#[case("hello/git/hello", 2)]
#[case::meta_packages("shell/arm64/git", 1)]
#[case::only_a_meta_package("shell", 0)]
#[case::packages_that_meta_packages_add("shell/nano/git", 2)]
#[case::a_package_called_like_a_meta_package("git/shell", 2)]
#[case::required("cacert/hello", 2)]
fn the_packages_that_a_name_lists_are_counted_once(#[case] text: &str, #[case] count: usize) {
    assert_eq!(parse(text).named_packages(), count);
}

#[rstest]
#[case("git", Some("git"))]
#[case("shell/arm64/htop/git", Some("htop"))]
#[case("git/htop/git", Some("git"))]
#[case("git/shell", Some("git"))]
#[case("shell", None)]
#[case("cacert", Some("cacert"))]
fn the_first_package_is_the_first_that_is_no_meta_package(
    #[case] text: &str,
    #[case] first: Option<&str>,
) {
    assert_eq!(parse(text).first_package(), first);
}

#[rstest]
#[case("hello", Architecture::Amd64, false)]
#[case("shell", Architecture::Amd64, true)]
#[case("arm64/hello", Architecture::Arm64, false)]
#[case("shell/arm64", Architecture::Arm64, true)]
#[case("arm64/shell/htop", Architecture::Arm64, true)]
#[case("shell/shell/arm64/arm64/git", Architecture::Arm64, true)]
#[case("hello/arm64", Architecture::Amd64, false)]
#[case("shell/hello/arm64", Architecture::Amd64, true)]
fn leading_meta_packages_change_the_build(
    #[case] text: &str,
    #[case] architecture: Architecture,
    #[case] shell: bool,
) {
    let name = parse(text);
    assert_eq!(name.architecture(), architecture);
    assert_eq!(name.shell(), shell);
}

#[test]
fn the_architecture_is_in_the_canonical_name() {
    assert_eq!(parse("shell/arm64").canonical(), "arm64/shell");
    assert_eq!(parse("shell/arm64"), parse("arm64/shell"));
    assert_ne!(parse("shell"), parse("arm64/shell"));
}

/// The canonical text is shared, the image is not.
#[test]
fn a_meta_package_after_a_package_is_another_image() {
    let meta = parse("shell/git");
    let package = parse("git/shell");
    assert_eq!(meta.canonical(), package.canonical());
    assert_ne!(meta, package);
}

#[rstest]
#[case("git/", 2, "", Empty)]
#[case("/git", 1, "", Empty)]
#[case("git//htop", 2, "", Empty)]
#[case("/", 1, "", Empty)]
#[case("Git", 1, "Git", Capital { found: 'G', offset: 0 })]
#[case("git/pythonPackages.numpy", 2, "pythonPackages.numpy", Capital { found: 'P', offset: 6 })]
// A capital, but in lower case it would be refused as well.
#[case("git/É", 2, "É", Character { found: 'É', offset: 0 })]
#[case("git/gtk+", 2, "gtk+", Character { found: '+', offset: 3 })]
#[case("a b", 1, "a b", Character { found: ' ', offset: 1 })]
#[case("é!", 1, "é!", Character { found: 'é', offset: 0 })]
#[case("git\0", 1, "git\0", Character { found: '\0', offset: 3 })]
#[case("git:latest", 1, "git:latest", Character { found: ':', offset: 3 })]
#[case("..", 1, "..", LeadingSeparator { found: '.' })]
#[case("git/../etc", 2, "..", LeadingSeparator { found: '.' })]
#[case("_1password", 1, "_1password", LeadingSeparator { found: '_' })]
#[case("-git", 1, "-git", LeadingSeparator { found: '-' })]
#[case("git.", 1, "git.", TrailingSeparator { found: '.' })]
#[case("a..b", 1, "a..b", Separators { offset: 1 })]
#[case("ab___c", 1, "ab___c", Separators { offset: 2 })]
#[case("a-b._c", 1, "a-b._c", Separators { offset: 3 })]
#[case("a_-b", 1, "a_-b", Separators { offset: 1 })]
fn refuses_a_component(
    #[case] text: &str,
    #[case] position: usize,
    #[case] component: &str,
    #[case] rule: ComponentRule,
) {
    assert_eq!(
        ImageName::parse(text).unwrap_err(),
        NameError::Component {
            position,
            component: component.to_owned(),
            rule
        }
    );
}

#[rstest]
#[case("", "the image name is empty. Fix: name at least one package")]
#[case(
    "git//htop",
    "component 2 of the image name is empty. Fix: remove the extra slash"
)]
#[case(
    "git/a..b",
    "component 2 of the image name, `a..b`, has an invalid run of separators at offset 1. \
     Fix: use one `.`, one or two `_`, or any number of `-`"
)]
#[case(
    "a\nb",
    "component 1 of the image name, `a\\nb`, has the character '\\n' at offset 1: \
     only a-z, 0-9, `.`, `_` and `-` may be used"
)]
#[case(
    "arm64/arm64",
    "the image name `arm64/arm64` names no package. Fix: add one, for example `arm64/arm64/hello`"
)]
fn says_what_is_wrong(#[case] text: &str, #[case] message: &str) {
    assert_eq!(ImageName::parse(text).unwrap_err().to_string(), message);
}

#[test]
fn is_at_most_255_bytes_long() {
    let longest = format!("{}/{}", "a".repeat(127), "b".repeat(127));
    assert_eq!(longest.len(), MAX_NAME_LEN);
    assert_eq!(parse(&longest).as_str(), longest);
    assert_eq!(
        ImageName::parse(&format!("{longest}c")).unwrap_err(),
        NameError::TooLong { bytes: 256 }
    );
}

/// A component of the specification's grammar.
fn component() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}"
}

proptest! {
    #[test]
    fn accepts_the_whole_grammar(components in prop::collection::vec(component(), 1..8)) {
        let text = components.join("/");
        let name = ImageName::parse(&text);
        let only_arm64 = components.iter().all(|component| component == "arm64");
        prop_assert_eq!(name.is_ok(), !only_arm64 && text.len() <= MAX_NAME_LEN);
    }

    #[test]
    fn order_and_repetition_do_not_matter(
        components in prop::collection::vec(component(), 1..6),
        repeated in any::<prop::sample::Index>(),
        seed in any::<prop::sample::Index>(),
    ) {
        // A generated component can be a meta-package only by an improbable accident.
        prop_assume!(!components.iter().any(|c| MetaPackage::find(c).is_some()));
        let name = parse(&format!("shell/{}", components.join("/")));
        let mut shuffled = components.clone();
        shuffled.push(repeated.get(&components).clone());
        let middle = seed.index(shuffled.len());
        shuffled.rotate_left(middle);
        let other = parse(&format!("shell/{}", shuffled.join("/")));
        prop_assert_eq!(&name, &other);
        prop_assert_eq!(name.canonical(), other.canonical());
    }
}
