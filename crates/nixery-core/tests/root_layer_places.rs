//! The root layer: what is at fixed places, and packages that are not directories.
#![allow(missing_docs)]

mod pack_support;

use nixery_core::{Codec, ConflictKind, Packer};
use nixery_manifest::Digest;
use pack_support::root::{at, forest, kinds, plan};
use pack_support::{Store, line, read_tar, store_path};
use rstest::rstest;

#[test]
fn without_packages_there_is_what_every_image_needs() {
    let root = plan(&Store::new(), &[]);
    let (layer, bytes) = Packer::new(1)
        .pack_root_layer(&root, Codec::Zstd, Vec::new())
        .expect("a layer");
    assert_eq!(layer.digest, Digest::of(&bytes));
    let tar = zstd::decode_all(&bytes[..]).expect("zstd");
    assert_eq!(layer.diff_id, Digest::of(&tar));
    let lines: Vec<String> = read_tar(&tar).iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "0755 dev/",
            "0755 etc/",
            "0644 etc/group",
            "0644 etc/nsswitch.conf",
            "0644 etc/passwd",
            "0755 nix/",
            "0755 nix/store/",
            "0755 proc/",
            "0700 root/",
            "0755 sys/",
            "1777 tmp/",
            "0755 var/",
            "0555 var/empty/",
            "1777 var/tmp/",
        ]
    );
    let passwd = at(&root, "etc/passwd").expect("a file");
    assert_eq!(
        passwd,
        "file 644 root:x:0:0:root:/root:/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/var/empty:/sbin/nologin\n"
    );
    assert_eq!(
        at(&root, "etc/group").expect("a file"),
        "file 644 root:x:0:\nnobody:x:65534:\n"
    );
    let nsswitch = at(&root, "etc/nsswitch.conf").expect("a file");
    assert!(nsswitch.contains("hosts: files dns\n"));
}

#[test]
fn outputs_that_are_no_directory_do_not_break_the_image() {
    let store = Store::new();
    let script = store_path('1', "my-script-1.0");
    let text = store_path('2', "notes.txt");
    let alias = store_path('3', "alias");
    let dangling = store_path('4', "dangling");
    let program_link = store_path('5', "runner");
    let hello = store_path('6', "hello");
    store.program(&script, "");
    store.file(&text, "", "not a program");
    store.link(&alias, "", hello.as_str());
    store.link(&dangling, "", "/nix/store/nowhere");
    store.link(&program_link, "", script.as_str());
    store.program(&hello, "bin/hello");
    let root = plan(&store, &[&script, &text, &alias, &dangling, &program_link]);
    assert_eq!(
        forest(&root),
        [
            "bin directory 755",
            "bin/hello -> hello/bin/hello",
            "bin/my-script -> my-script-1.0",
            "bin/runner -> runner",
        ]
    );
    assert_eq!(root.unlinked(), [text, dangling]);
}

#[test]
fn a_package_may_bring_the_images_files_but_not_replace_its_directories() {
    let store = Store::new();
    let (one, two) = (store_path('1', "one"), store_path('2', "two"));
    store.file(&one, "etc/passwd", "mine");
    store.program(&one, "bin/sh");
    store.file(&one, "tmp/seed", "");
    store.file(&one, "etc/ssl/certs/ca-certificates.crt", "");
    store.file(&one, "etc/ssl/certs/ca-bundle.crt", "");
    store.program(&one, "bin/env");
    store.program(&one, "usr/bin/env");
    store.file(&one, "nix/store/evil", "");
    store.file(&one, "nix/var/fine", "");
    store.file(&two, "root", "a file");
    store.file(&two, "proc", "a file");
    store.directory(&two, "elsewhere");
    store.link(&two, "var", "elsewhere");
    let root = plan(&store, &[&one, &two]);
    for (path, expected) in [
        ("etc/passwd", "-> one/etc/passwd"),
        ("bin/sh", "-> one/bin/sh"),
        ("tmp", "directory 1777"),
        ("tmp/seed", "-> one/tmp/seed"),
        (
            "etc/ssl/certs/ca-certificates.crt",
            "-> one/etc/ssl/certs/ca-certificates.crt",
        ),
        ("usr/bin/env", "-> one/usr/bin/env"),
        ("root", "directory 700"),
        ("proc", "directory 755"),
        ("var", "directory 755"),
        ("nix", "directory 755"),
        ("nix/store", "directory 755"),
        ("nix/var/fine", "-> one/nix/var/fine"),
    ] {
        assert_eq!(at(&root, path).as_deref(), Some(expected), "{path}");
    }
    assert_eq!(at(&root, "nix/store/evil"), None);
    assert_eq!(
        kinds(&root),
        [
            ("/nix/store".to_owned(), ConflictKind::Reserved),
            ("/proc".to_owned(), ConflictKind::FileAndDirectory),
            ("/root".to_owned(), ConflictKind::FileAndDirectory),
        ]
    );
    assert_eq!(root.conflicts()[1].kept, None);
}

#[rstest]
#[case::no_such_program("bin/other", true)]
#[case::not_executable("bin/env", false)]
fn env_and_sh_are_there_only_where_they_resolve(#[case] name: &str, #[case] executable: bool) {
    let store = Store::new();
    let one = store_path('1', "one");
    if executable {
        store.program(&one, name);
    } else {
        store.file(&one, name, "");
    }
    store.link(&one, "bin/bash", "gone");
    let root = plan(&store, &[&one]);
    assert_eq!(at(&root, "usr/bin/env"), None);
    assert_eq!(at(&root, "usr"), None);
    assert_eq!(at(&root, "bin/sh"), None);
    assert!(
        at(&root, "etc/passwd")
            .expect("a file")
            .contains("root:/root:/sbin/nologin")
    );
}

/// `bin` and `usr/bin` of a package may be links themselves.
#[test]
fn fixed_places_are_found_and_made_through_links() {
    let store = Store::new();
    let one = store_path('1', "one");
    store.program(&one, "programs/bash");
    store.program(&one, "programs/env");
    store.link(&one, "bin", "programs");
    store.program(&one, "programs2/other");
    store.link(&one, "usr/bin", "../programs2");
    let root = plan(&store, &[&one]);
    for (path, expected) in [
        ("bin", "directory 755"),
        ("bin/bash", "-> one/programs/bash"),
        ("bin/sh", "-> one/bin/bash"),
        ("usr/bin", "directory 755"),
        ("usr/bin/env", "-> one/programs/env"),
        ("usr/bin/other", "-> one/programs2/other"),
    ] {
        assert_eq!(at(&root, path).as_deref(), Some(expected), "{path}");
    }
}
