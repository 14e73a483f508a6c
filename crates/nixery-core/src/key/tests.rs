use proptest::prelude::*;

use super::*;
use crate::name::ImageName;

fn inputs<'a>(packages: &'a [String], identity: SourceIdentity<'a>) -> ManifestKeyInputs<'a> {
    ManifestKeyInputs {
        identity,
        packages,
        architecture: Architecture::Amd64,
        shell: false,
        strategy: "dominator",
        budget: 94,
        compression: Codec::Gzip,
        packer_version: 1,
    }
}

const REVISION: SourceIdentity<'static> = SourceIdentity::Revision {
    src_type: "nixpkgs",
    src_args: "0123456789abcdef0123456789abcdef01234567",
    configuration: None,
};

fn configured(configuration: &str) -> SourceIdentity<'static> {
    SourceIdentity::Revision {
        src_type: "nixpkgs",
        src_args: "0123456789abcdef0123456789abcdef01234567",
        configuration: Some(Digest::of(configuration.as_bytes())),
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn path(letter: char) -> StorePath {
    let hash = letter.to_string().repeat(32);
    StorePath::parse(&format!("/nix/store/{hash}-name")).expect("the path is legal")
}

/// If this fails and the change was meant, raise [`IMAGE_VERSION`] or the packer's version: the
/// caches of everybody who runs this are keyed so.
#[test]
fn keys_are_pinned() {
    let packages = strings(&["cacert", "hello", "iana-etc"]);
    assert_eq!(
        manifest_key(&inputs(&packages, REVISION)).hex(),
        "3df1b787f570c9f8cca51e86d54e6fdb47782f54a32215b912237e23c7cf3da4"
    );
    let derivations = strings(&["/nix/store/00000000000000000000000000000000-hello.drv!out"]);
    assert_eq!(
        manifest_key(&inputs(
            &packages,
            SourceIdentity::Derivations(&derivations)
        ))
        .hex(),
        "694d988cc9be2f9e8f4c71f01dcf9a7ba33542af3592a06a08f753ebca54db2a"
    );
    let hash = NarHash::from_bytes([7; 32]);
    assert_eq!(
        layer_key(&[(&path('a'), &hash)], Codec::Gzip, 1).hex(),
        "d301c99dc690aaff9821b94dd1041f6429f540ed2479fed91bf6af3cf34daed1"
    );
}

/// Each input on its own changes the key. The original left out the architecture.
#[test]
fn every_input_counts() {
    let packages = strings(&["git", "hello"]);
    let other_packages = strings(&["git", "htop"]);
    let derivations = strings(&["/nix/store/a.drv"]);
    let base = inputs(&packages, REVISION);
    let mut keys = vec![
        manifest_key(&base),
        manifest_key(&inputs(&other_packages, REVISION)),
        manifest_key(&inputs(
            &packages,
            SourceIdentity::Derivations(&derivations),
        )),
        manifest_key(&inputs(
            &packages,
            SourceIdentity::Revision {
                src_type: "git",
                src_args: "0123456789abcdef0123456789abcdef01234567",
                configuration: None,
            },
        )),
        manifest_key(&inputs(
            &packages,
            SourceIdentity::Revision {
                src_type: "nixpkgs",
                src_args: "other",
                configuration: None,
            },
        )),
        manifest_key(&inputs(&packages, configured("a"))),
        manifest_key(&inputs(&packages, configured("b"))),
    ];
    let mut change = |change: fn(&mut ManifestKeyInputs<'_>)| {
        let mut inputs = base.clone();
        change(&mut inputs);
        keys.push(manifest_key(&inputs));
    };
    change(|inputs| inputs.architecture = Architecture::Arm64);
    change(|inputs| inputs.shell = true);
    change(|inputs| inputs.strategy = "dominator;threshold=1000");
    change(|inputs| inputs.budget = 93);
    change(|inputs| inputs.compression = Codec::Zstd);
    change(|inputs| inputs.packer_version = 2);
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

/// The original joined the names: these two images had one key.
#[test]
fn package_names_do_not_run_together() {
    let apart = strings(&["git", "hub"]);
    let together = strings(&["github"]);
    assert_ne!(
        manifest_key(&inputs(&apart, REVISION)),
        manifest_key(&inputs(&together, REVISION))
    );
}

#[test]
fn spelling_of_a_name_does_not_count() {
    let key = |text: &str| {
        let name = ImageName::parse(text).expect("the name is legal");
        manifest_key(&inputs(name.packages(), REVISION))
    };
    assert_eq!(key("git/htop"), key("htop/git/htop"));
}

#[test]
fn a_layer_key_covers_contents_compression_and_packer() {
    let (a, b) = (path('a'), path('b'));
    let (one, two) = (NarHash::from_bytes([1; 32]), NarHash::from_bytes([2; 32]));
    let mut keys = vec![
        layer_key(&[(&a, &one)], Codec::Gzip, 1),
        layer_key(&[(&a, &two)], Codec::Gzip, 1),
        layer_key(&[(&b, &one)], Codec::Gzip, 1),
        layer_key(&[(&a, &one), (&b, &two)], Codec::Gzip, 1),
        layer_key(&[(&a, &two), (&b, &one)], Codec::Gzip, 1),
        layer_key(&[(&a, &one)], Codec::Zstd, 1),
        layer_key(&[(&a, &one)], Codec::Gzip, 2),
        layer_key(&[], Codec::Gzip, 1),
    ];
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

proptest! {
    #[test]
    fn a_layer_key_does_not_depend_on_order(
        letters in prop::collection::btree_set(prop::char::range('a', 'd'), 1..5)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle(),
        seed in any::<u8>(),
    ) {
        let members: Vec<_> = letters
            .iter()
            .map(|&letter| (path(letter), NarHash::from_bytes([letter as u8 ^ seed; 32])))
            .collect();
        let mut references: Vec<_> = members.iter().map(|(path, hash)| (path, hash)).collect();
        let key = layer_key(&references, Codec::Gzip, 1);
        references.sort_unstable_by_key(|(path, _)| path.as_str());
        prop_assert_eq!(key, layer_key(&references, Codec::Gzip, 1));
    }
}
