//! The root layer: how packages merge.
#![allow(missing_docs)]

mod pack_support;

use std::fs;
use std::path::{Path, PathBuf};

use nixery_core::{Codec, Conflict, ConflictKind, PackError, Packer, RootEntryKind, RootLayer};
use nixery_manifest::Digest;
use pack_support::root::{at, forest, kinds, plan};
use pack_support::{Store, read_tar, store_path};
use rstest::rstest;

/// A root layer with something of everything: two packages that merge, a shell, certificates.
fn sample() -> (Store, RootLayer) {
    let store = Store::new();
    let (bash, coreutils, cacert) = (
        store_path('1', "bash-5.2"),
        store_path('2', "coreutils-9.1"),
        store_path('3', "nss-cacert-3.98"),
    );
    store.program(&bash, "bin/bash");
    store.file(&bash, "nix-support/propagated-build-inputs", "");
    store.program(&coreutils, "bin/coreutils");
    store.link(&coreutils, "bin/env", "coreutils");
    store.directory(&coreutils, "share/empty");
    store.file(&cacert, "etc/ssl/certs/ca-bundle.crt", "PEM");
    let root = plan(&store, &[&bash, &cacert, &coreutils]);
    (store, root)
}

#[test]
fn packages_become_directories_and_links() {
    let (_store, root) = sample();
    assert_eq!(
        forest(&root),
        [
            "bin directory 755",
            "bin/bash -> bash-5.2/bin/bash",
            "bin/coreutils -> coreutils-9.1/bin/coreutils",
            "bin/env -> coreutils-9.1/bin/env",
            "bin/sh -> bash-5.2/bin/bash",
            "etc/passwd file 644 root:x:0:0:root:/root:/bin/sh\n\
             nobody:x:65534:65534:nobody:/var/empty:/sbin/nologin\n",
            "etc/ssl directory 755",
            "etc/ssl/certs directory 755",
            "etc/ssl/certs/ca-bundle.crt -> nss-cacert-3.98/etc/ssl/certs/ca-bundle.crt",
            "etc/ssl/certs/ca-certificates.crt -> nss-cacert-3.98/etc/ssl/certs/ca-bundle.crt",
            "share directory 755",
            "share/empty directory 755",
            "usr directory 755",
            "usr/bin directory 755",
            "usr/bin/env -> coreutils-9.1/bin/env",
        ]
    );
    assert!(root.conflicts().is_empty(), "{:?}", root.conflicts());
    assert!(root.unlinked().is_empty());
}

#[rstest]
#[case::gzip(
    Codec::Gzip,
    "sha256:695f979d7aa8624ed092e1d27a6b8501667cb853477cfad9f5a78d220d6b79cb"
)]
#[case::zstd(
    Codec::Zstd,
    "sha256:95dc0ea8a322cc49c07e971351006945ab10a016febde33948e7a6de74b12a36"
)]
fn the_bytes_are_pinned(#[case] codec: Codec, #[case] digest: &str) {
    let (_store, root) = sample();
    let (layer, bytes) = Packer::new(1)
        .pack_root_layer(&root, codec, Vec::new())
        .expect("a layer");
    assert_eq!(layer.digest, Digest::of(&bytes));
    let meant = "if that was meant, raise PACKER_VERSION, pin the new digests here, and say in the \
                 changelog that root layers differ";
    assert_eq!(
        layer.diff_id.to_string(),
        "sha256:135746c83ac076dbecea7779d844b534551933a817e64a89482ac2b34dc62833",
        "the tar differs: {meant}"
    );
    assert_eq!(
        layer.digest.to_string(),
        digest,
        "the compressed bytes differ: {meant}"
    );
}

#[test]
fn the_first_package_wins_and_the_loser_is_recorded() {
    let store = Store::new();
    let (one, two) = (store_path('1', "one"), store_path('2', "two"));
    store.program(&one, "bin/tool");
    store.file(&one, "share", "a file");
    store.file(&one, "lib/x/y", "");
    store.program(&two, "bin/tool");
    store.file(&two, "share/doc", "in a directory");
    store.file(&two, "lib/x", "a file");
    store.file(&two, "lib/z", "");
    let root = plan(&store, &[&one, &two]);
    assert_eq!(at(&root, "bin/tool").as_deref(), Some("-> one/bin/tool"));
    assert_eq!(at(&root, "share").as_deref(), Some("-> one/share"));
    assert_eq!(at(&root, "lib/x").as_deref(), Some("directory 755"));
    assert_eq!(at(&root, "lib/z").as_deref(), Some("-> two/lib/z"));
    assert_eq!(
        kinds(&root),
        [
            ("/bin/tool".to_owned(), ConflictKind::SameName),
            ("/lib/x".to_owned(), ConflictKind::FileAndDirectory),
            ("/share".to_owned(), ConflictKind::FileAndDirectory),
        ]
    );
    let (one, two) = (one.as_str(), two.as_str());
    let first = Conflict {
        path: "/bin/tool".into(),
        kept: Some(format!("{one}/bin/tool").into()),
        skipped: format!("{two}/bin/tool").into(),
        kind: ConflictKind::SameName,
    };
    assert_eq!(root.conflicts()[0], first);
    assert_eq!(
        first.to_string(),
        format!("bin/tool is {one}/bin/tool; {two}/bin/tool is left out")
    );
    let swapped = plan(&store, &[&store_path('2', "two"), &store_path('1', "one")]);
    assert_eq!(at(&swapped, "bin/tool").as_deref(), Some("-> two/bin/tool"));
}

#[test]
fn the_same_file_twice_is_no_conflict() {
    let store = Store::new();
    let (real, alias) = (store_path('1', "real"), store_path('2', "alias"));
    store.program(&real, "bin/tool");
    store.link(&alias, "bin/tool", format!("{}/bin/tool", real.as_str()));
    let root = plan(&store, &[&real, &alias, &real]);
    assert!(root.conflicts().is_empty(), "{:?}", root.conflicts());
}

#[test]
fn a_link_to_a_directory_merges_only_where_it_meets_another() {
    let store = Store::new();
    let (one, two, three) = (
        store_path('1', "one"),
        store_path('2', "two"),
        store_path('3', "three"),
    );
    store.file(&one, "lib/a/x", "");
    store.link(&one, "lib64", "lib");
    store.link(&one, "alone", "lib");
    store.file(&two, "lib64/a/y", "");
    store.file(&three, "real/b", "");
    store.link(&three, "lib64", format!("{}/real", three.as_str()));
    // Through another package, two links deep.
    store.link(&three, "lib", format!("{}/lib64", two.as_str()));
    let root = plan(&store, &[&one, &two, &three]);
    assert_eq!(
        forest(&root),
        [
            "alone -> one/alone",
            "lib directory 755",
            "lib/a directory 755",
            "lib/a/x -> one/lib/a/x",
            "lib/a/y -> two/lib64/a/y",
            "lib64 directory 755",
            "lib64/a directory 755",
            "lib64/a/x -> one/lib/a/x",
            "lib64/a/y -> two/lib64/a/y",
            "lib64/b -> three/real/b",
            "real directory 755",
            "real/b -> three/real/b",
        ]
    );
    assert!(root.conflicts().is_empty(), "{:?}", root.conflicts());
}

#[test]
fn dangling_and_looping_links_stay_links() {
    let store = Store::new();
    let (one, two) = (store_path('1', "one"), store_path('2', "two"));
    for path in [&one, &two] {
        store.link(path, "x/dangling", "nowhere");
        store.link(path, "x/self", "self");
        store.link(path, "x/up", ".");
        store.link(path, "x/top", "..");
        store.link(path, "x/host", "/etc");
        store.link(path, "x/out", "../../../../../../../../etc");
        store.file(path, "x/file", "");
    }
    // Ends, and nothing of the host is in it.
    let root = plan(&store, &[&one, &two]);
    for name in ["dangling", "self", "host", "out", "file"] {
        let expected = format!("-> one/x/{name}");
        assert_eq!(at(&root, &format!("x/{name}")), Some(expected));
    }
    assert!(kinds(&root).contains(&("/x/up".to_owned(), ConflictKind::Loop)));
    assert!(kinds(&root).contains(&("/x/dangling".to_owned(), ConflictKind::SameName)));
}

#[test]
fn a_file_in_the_way_of_a_directory_is_left_alone() {
    let store = Store::new();
    let (one, two) = (store_path('1', "one"), store_path('2', "two"));
    store.file(&one, "bin", "a file");
    store.program(&two, "");
    let root = plan(&store, &[&one, &two]);
    assert_eq!(at(&root, "bin").as_deref(), Some("-> one/bin"));
    assert_eq!(
        kinds(&root),
        [("/bin/two".to_owned(), ConflictKind::FileAndDirectory)]
    );
}

#[test]
fn what_no_layer_may_hold_is_refused_here_too() {
    let store = Store::new();
    let one = store_path('1', "one");
    store.file(&one, "share/.wh.passwd", "");
    let packages = [one.clone()];
    let error = RootLayer::plan(&packages, &store.root).expect_err("a whiteout");
    assert!(matches!(&error, PackError::Whiteout { path }
        if *path == Path::new(one.as_str()).join("share/.wh.passwd")));
    let script = store_path('2', ".wh.etc");
    store.program(&script, "");
    let packages = [script];
    let error = RootLayer::plan(&packages, &store.root).expect_err("a whiteout");
    assert!(matches!(error, PackError::Whiteout { .. }), "{error}");
    let packages = [store_path('3', "gone")];
    let error = RootLayer::plan(&packages, &store.root).expect_err("missing");
    assert!(matches!(error, PackError::Missing { .. }), "{error}");
}

#[test]
fn a_package_with_20_000_files_is_linked_and_sorted() {
    let store = Store::new();
    let one = store_path('1', "many");
    for directory in 0..20 {
        store.directory(&one, format!("share/{directory}"));
        for file in 0..1000 {
            fs::write(store.at(&one, format!("share/{directory}/{file}")), "").expect("a file");
        }
    }
    let root = plan(&store, &[&one, &one]);
    let links = root
        .entries()
        .iter()
        .filter(|entry| matches!(entry.kind, RootEntryKind::Link { .. }))
        .count();
    assert_eq!(links, 20_000);
    let (_, bytes) = Packer::new(1)
        .pack_root_layer(&root, Codec::Gzip, Vec::new())
        .expect("a layer");
    let mut tar = Vec::new();
    std::io::copy(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut tar).expect("gzip");
    let entries = read_tar(&tar);
    assert_eq!(entries.len(), root.entries().len());
    assert!(entries.is_sorted_by(|one, two| one.name < two.name));
}

/// Absolute links of a store in a chroot lead astray on the host.
#[test]
fn links_resolve_inside_the_store_that_is_packed() {
    let store = Store::new();
    let (one, two) = (store_path('1', "one"), store_path('2', "two"));
    let real = store_path('7', "real");
    store.file(&real, "data/file", "");
    store.link(&one, "share", format!("{}/data", real.as_str()));
    store.file(&two, "share/other", "");
    assert!(!PathBuf::from(real.as_str()).exists(), "not on this host");
    let root = plan(&store, &[&one, &two]);
    assert_eq!(
        at(&root, "share/file").as_deref(),
        Some("-> real/data/file")
    );
    assert_eq!(
        at(&root, "share/other").as_deref(),
        Some("-> two/share/other")
    );
}
