//! What is refused, and how packing fails.
#![allow(missing_docs)]

mod pack_support;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nixery_core::{Codec, PackError, StorePath, pack_layer, write_layer_tar};
use pack_support::{Full, Store, store_path};
use rstest::rstest;

#[rstest]
#[case::file(".wh.x")]
#[case::opaque_directory(".wh..wh..opq")]
#[case::nested("share/.wh.gone")]
fn whiteouts_are_refused(#[case] name: &str, #[values("file", "directory", "link")] kind: &str) {
    let store = Store::new();
    let path = store_path('h', "evil");
    match kind {
        "file" => store.file(&path, name, ""),
        "directory" => store.directory(&path, name),
        _ => store.link(&path, name, "target"),
    }
    let error = pack_layer(
        std::slice::from_ref(&path),
        &store.root,
        Codec::Gzip,
        Vec::new(),
    )
    .expect_err("a whiteout");
    assert!(matches!(&error, PackError::Whiteout { path: at }
        if *at == Path::new(path.as_str()).join(name)));
    assert!(error.to_string().contains(name), "{error}");
}

#[rstest]
#[case::socket("a socket")]
#[case::pipe("a named pipe")]
fn what_nix_cannot_hold_is_refused(#[case] kind: &str, #[values("", "run/it")] below: &str) {
    let store = Store::new();
    let path = store_path('i', "odd");
    if !below.is_empty() {
        store.directory(&path, "run");
    }
    let at = store.at(&path, below);
    if kind == "a socket" {
        drop(UnixListener::bind(&at).expect("a socket"));
    } else {
        let status = Command::new("mkfifo").arg(&at).status();
        assert!(status.expect("mkfifo runs").success());
    }
    let error = write_layer_tar(std::slice::from_ref(&path), &store.root, io::sink())
        .expect_err("not for a layer");
    assert!(matches!(error, PackError::Unsupported { kind: found, .. } if found == kind));
    let message = error.to_string();
    assert!(message.contains(path.as_str()) && message.contains(below));
    let physical = store.root.prefix().display().to_string();
    assert!(
        !message.contains(&physical),
        "{message} shows the host's path"
    );
}

#[test]
fn a_missing_path_is_named() {
    let store = Store::new();
    let path = store_path('j', "gone");
    let error =
        write_layer_tar(std::slice::from_ref(&path), &store.root, io::sink()).expect_err("missing");
    assert!(matches!(error, PackError::Missing { .. }));
    assert!(error.to_string().contains(path.as_str()), "{error}");
}

#[test]
fn two_stores_in_one_layer_are_refused() {
    let store = Store::new();
    let one = store_path('k', "one");
    store.file(&one, "", "");
    let two = StorePath::parse(&format!("/other/{}-two", "l".repeat(32))).expect("a store path");
    let error = write_layer_tar(&[one, two], &store.root, io::sink()).expect_err("two stores");
    assert!(matches!(error, PackError::MixedStores { .. }), "{error}");
}

#[rstest]
fn a_full_disk_is_an_error(#[values(Codec::Gzip, Codec::GzipSingle, Codec::Zstd)] codec: Codec) {
    let store = Store::new();
    let paths = [store_path('a', "a")];
    store.file(&paths[0], "", "some bytes");
    let result = pack_layer(&paths, &store.root, codec, Full(Vec::new(), 0));
    let Err(error) = result.map(|(layer, _)| layer) else {
        panic!("it cannot fit");
    };
    assert!(matches!(error, PackError::Write { .. }), "{error}");
}
