//! The bytes of layers.
#![allow(missing_docs)]

mod pack_support;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use nixery_core::{
    Codec, PACKER_VERSION, PackError, Packer, StorePath, StoreRoot, pack_layer, write_layer_tar,
};
use nixery_manifest::Digest;
use pack_support::{Full, Store, line, read_tar, store_path};
use rstest::rstest;

/// A bit of everything; `variant` changes what must not matter.
fn sample(variant: bool) -> (Store, Vec<StorePath>) {
    let store = Store::new();
    let hello = store_path('b', "hello-2.12");
    let conf = store_path('a', "hello.conf");
    let alias = store_path('c', "hello");
    store.program(&hello, "bin/hello");
    store.file(&hello, "share/doc/README", "Say hello.\n");
    store.file(&hello, "share/doc/COPY", "Say hello.\n");
    store.file(&hello, "share/big", [7; 300_000]);
    store.file(&hello, "lib-x", "sorts before lib/");
    store.file(&hello, "lib/x", "");
    store.directory(&hello, "var/empty");
    store.link(&hello, "sbin", "bin");
    store.link(&hello, "etc/dangling", "/nowhere/at/all");
    store.file(&hello, OsStr::from_bytes(b"share/caf\xe9"), "latin-1");
    store.file(&conf, "", "greeting = hello\n");
    store.link(&alias, "", hello.as_str());
    let mut paths = vec![conf, hello.clone(), alias];
    if variant {
        // A hard link, other times, and permissions whose owner's executable bit is the same.
        let (readme, copy) = (
            store.at(&hello, "share/doc/README"),
            store.at(&hello, "share/doc/COPY"),
        );
        fs::remove_file(&copy).expect("removed");
        fs::hard_link(&readme, copy).expect("a hard link");
        fs::set_permissions(&readme, Permissions::from_mode(0o655)).expect("a mode");
        fs::set_permissions(
            store.at(&hello, "bin/hello"),
            Permissions::from_mode(0o4700),
        )
        .expect("a mode");
        fs::set_permissions(store.at(&hello, "lib"), Permissions::from_mode(0o700))
            .expect("a mode");
        File::open(store.at(&hello, "lib-x"))
            .and_then(|file| {
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400))
            })
            .expect("a time");
        paths.reverse();
        paths.push(hello);
    }
    (store, paths)
}

fn tar_of(paths: &[StorePath], store: &StoreRoot) -> Vec<u8> {
    write_layer_tar(paths, store, Vec::new()).expect("a layer")
}

#[test]
fn a_layer_holds_what_nix_keeps_of_its_paths() {
    let (store, paths) = sample(false);
    let entries = read_tar(&tar_of(&paths, &store.root));
    let (a, b, c) = ("a".repeat(32), "b".repeat(32), "c".repeat(32));
    let hello = format!("nix/store/{b}-hello-2.12");
    let lines: Vec<String> = entries.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "0755 nix/".to_owned(),
            "0755 nix/store/".to_owned(),
            format!("0444 nix/store/{a}-hello.conf"),
            format!("0555 {hello}/"),
            format!("0555 {hello}/bin/"),
            format!("0555 {hello}/bin/hello"),
            format!("0555 {hello}/etc/"),
            format!("0777 {hello}/etc/dangling -> /nowhere/at/all"),
            format!("0444 {hello}/lib-x"),
            format!("0555 {hello}/lib/"),
            format!("0444 {hello}/lib/x"),
            format!("0777 {hello}/sbin -> bin"),
            format!("0555 {hello}/share/"),
            format!("0444 {hello}/share/big"),
            format!("0444 {hello}/share/caf\u{fffd}"),
            format!("0555 {hello}/share/doc/"),
            format!("0444 {hello}/share/doc/COPY"),
            format!("0444 {hello}/share/doc/README"),
            format!("0555 {hello}/var/"),
            format!("0555 {hello}/var/empty/"),
            format!("0777 nix/store/{c}-hello -> /nix/store/{b}-hello-2.12"),
        ]
    );
    assert!(entries.is_sorted_by(|one, two| one.name < two.name));
    assert_eq!(entries[2].contents, b"greeting = hello\n");
    assert_eq!(entries[13].contents, [7; 300_000]);
    assert!(entries[14].name.ends_with(b"/caf\xe9"));
    assert_eq!(entries[15].kind, tar::EntryType::Directory);
}

/// The digests of one layer. They must not change by accident: every cache holds layers under keys
/// that promise these bytes.
#[rstest]
#[case::gzip(
    Codec::Gzip,
    "sha256:007d7a30bc3ea2a134c9cfaede1b0452d2654350a24da695f81da89ac5e2bcb9"
)]
#[case::gzip_single(
    Codec::GzipSingle,
    "sha256:1d8c6424b10409383b9535374fbc7e28fd91dac22ca92b6de84f7b348065b108"
)]
#[case::zstd(
    Codec::Zstd,
    "sha256:722fd72614febe41c64d2501533132703aa40483778ed2e5d496ed606894985b"
)]
fn the_bytes_are_pinned(
    #[case] codec: Codec,
    #[case] digest: &str,
    #[values(false, true)] variant: bool,
) {
    let (store, paths) = sample(variant);
    let (layer, bytes) = pack_layer(&paths, &store.root, codec, Vec::new()).expect("a layer");
    assert_eq!(layer.digest, Digest::of(&bytes));
    assert_eq!(layer.size, bytes.len() as u64);
    assert_eq!(layer.compression, codec.compression());

    let mut tar = Vec::new();
    match codec {
        Codec::Gzip | Codec::GzipSingle => {
            flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut tar)
        }
        Codec::Zstd => zstd::Decoder::new(&bytes[..])
            .expect("zstd")
            .read_to_end(&mut tar),
    }
    .expect("the tar");
    assert_eq!(layer.diff_id, Digest::of(&tar));
    assert_eq!(layer.tar_size, tar.len() as u64);
    assert_eq!(tar, tar_of(&paths, &store.root));

    let meant = "if the change of the layer format (or of the compressor's version) was meant, raise \
                 PACKER_VERSION, pin the new digests here, and say in the changelog that all layers \
                 are packed anew";
    assert_eq!(PACKER_VERSION, 2, "{meant}");
    assert_eq!(
        layer.diff_id.to_string(),
        "sha256:e32b645dfe9917f049864f9b9181aab732901ccfddd134639774bc8996740c0a",
        "the tar differs: {meant}"
    );
    assert_eq!(
        layer.digest.to_string(),
        digest,
        "the compressed bytes differ: {meant}"
    );
}

#[test]
fn no_paths_give_an_empty_tar() {
    let tar = tar_of(&[], &StoreRoot::host());
    assert_eq!(tar, [0; 1024]);
}

#[test]
fn another_store_directory_has_its_own_parents() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = format!("/srv/my/store/{}-x", "d".repeat(32));
    let path = StorePath::parse(&path).expect("a store path");
    let root = StoreRoot::new(directory.path());
    fs::create_dir_all(root.locate(&path)).expect("a directory");
    let lines: Vec<String> = read_tar(&tar_of(std::slice::from_ref(&path), &root))
        .iter()
        .map(line)
        .collect();
    assert_eq!(
        lines,
        [
            "0755 srv/".to_owned(),
            "0755 srv/my/".to_owned(),
            "0755 srv/my/store/".to_owned(),
            format!("0555 {}/", &path.as_str()[1..]),
        ]
    );
}

fn long_tree(store: &Store) -> (StorePath, Vec<(PathBuf, PathBuf)>) {
    let path = store_path('f', "long");
    // `nix/store/<32>-long/` is 48 bytes: names around the 100 of a header, around the 255 of
    // ustar's prefix and name, and far over.
    let mut links = Vec::new();
    for length in [51, 52, 53, 106, 107, 206, 207, 208, 255] {
        store.file(&path, "n".repeat(length), format!("{length}"));
        store.directory(&path, "d".repeat(length));
        let target = PathBuf::from("t".repeat(length));
        store.link(&path, "l".repeat(length), &target);
        links.push((store.at(&path, "l".repeat(length)), target));
    }
    let deep = vec!["p".repeat(200); 15].join("/");
    store.file(&path, format!("{deep}/file"), "deep");
    for length in [99, 100, 101, 4095] {
        let target = PathBuf::from("t".repeat(length));
        store.link(&path, format!("to-{length}"), &target);
        links.push((store.at(&path, format!("to-{length}")), target));
    }
    let odd = Path::new(OsStr::from_bytes(b"\xff\xfe/\x80 \n\t\\\"*"));
    store.link(&path, odd, odd);
    links.push((store.at(&path, odd), odd.to_owned()));
    (path, links)
}

#[test]
fn long_and_odd_names_survive() {
    let store = Store::new();
    let (path, links) = long_tree(&store);
    let entries = read_tar(&tar_of(&[path], &store.root));
    assert!(entries.is_sorted_by(|one, two| one.name < two.name));
    let prefix = store.root.prefix();
    for (link, target) in links {
        let name = link.strip_prefix(prefix).expect("below the prefix");
        let entry = entries
            .iter()
            .find(|entry| entry.name == name.as_os_str().as_bytes())
            .unwrap_or_else(|| panic!("no entry for {name:?}"));
        assert_eq!(entry.target, target.as_os_str().as_bytes());
    }
    for length in [51, 52, 53, 106, 107, 206, 207, 208, 255] {
        let name = "n".repeat(length);
        let entry = entries
            .iter()
            .find(|entry| entry.name.ends_with(format!("-long/{name}").as_bytes()));
        assert_eq!(entry.expect(&name).contents, length.to_string().as_bytes());
    }
    assert!(entries.iter().any(|entry| entry.contents == b"deep"));
}

/// GNU tar is a reader of its own; every Debian has it.
#[test]
fn the_systems_tar_unpacks_the_same_tree() {
    if Command::new("tar").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no `tar` command here; install it to run this test");
        return;
    }
    let store = Store::new();
    let (long, _) = long_tree(&store);
    store.program(&long, "bin/program");
    let tar = tar_of(std::slice::from_ref(&long), &store.root);
    let unpacked = Store::new();
    let file = unpacked.root.prefix().join("layer.tar");
    fs::write(&file, &tar).expect("the tar");
    let output = Command::new("tar")
        .arg("-xf")
        .arg(&file)
        .arg("-C")
        .arg(unpacked.root.prefix())
        .output()
        .expect("tar runs");
    assert!(output.status.success(), "{output:?}");
    let again = tar_of(&[long], &unpacked.root);
    // Whoever is not root can remove the directories, 0555, only now.
    let writable = Command::new("chmod")
        .args(["-R", "u+w"])
        .arg(unpacked.root.prefix())
        .status();
    assert!(writable.expect("chmod runs").success());
    assert_eq!(again, tar);
}

#[test]
fn files_over_8_gib_keep_their_size() {
    const SIZE: u64 = (8 << 30) + 12_345;
    let store = Store::new();
    let path = store_path('g', "huge");
    store.file(&path, "", "");
    fs::set_permissions(store.at(&path, ""), Permissions::from_mode(0o644)).expect("a mode");
    File::options()
        .write(true)
        .open(store.at(&path, ""))
        .and_then(|file| file.set_len(SIZE))
        .expect("a sparse file");
    // The header is in the first block; the rest is only zeros.
    let mut full = Full(Vec::new(), 1);
    let error = write_layer_tar(&[path], &store.root, &mut full).expect_err("it is full");
    assert!(matches!(error, PackError::Write { .. }), "{error}");
    let header = tar::Header::from_byte_slice(&full.0[1024..1536]);
    assert_eq!(header.entry_size().expect("a size"), SIZE);
    let size = &header.as_gnu().expect("a GNU header").size;
    assert_eq!(size[0], 0x80, "base 256, as GNU tar and Go read it");
    assert_eq!(size[4..], SIZE.to_be_bytes());
}

/// Neither the stack of the thread nor the number of open files limits the depth.
#[test]
fn deep_trees_need_no_stack() {
    let store = Store::new();
    let path = store_path('m', "deep");
    let levels = 1_900;
    store.file(&path, format!("{}end", "d/".repeat(levels)), "");
    let root = store.root.clone();
    let tar = thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(move || tar_of(&[path], &root))
        .expect("a thread")
        .join()
        .expect("no overflow");
    assert_eq!(read_tar(&tar).len(), 2 + 1 + levels + 1);
}

/// Some megabytes that compress about as programs do: words in an order of a fixed sequence
/// (constants of Knuth's MMIX generator).
fn text(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut text = Vec::with_capacity(bytes + 16);
    while text.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = (state >> 52) * 2_654_435_761;
        text.extend_from_slice(&word.to_be_bytes()[2..3 + (word % 6) as usize]);
    }
    text.truncate(bytes);
    text
}

/// Large enough for every window to slide and for a few blocks; with any number of threads, and
/// many layers at once, as a server packs them.
#[rstest]
#[case::gzip(
    Codec::Gzip,
    "sha256:3d23a181290979c597c49b6cbb5d829c73585e019b5aca678d8bfc64c1920a04"
)]
#[case::gzip_single(
    Codec::GzipSingle,
    "sha256:2a72cf556e4f43381c2f314ba03ec58876dabd29eb3be89ac549eeae985610db"
)]
#[case::zstd(
    Codec::Zstd,
    "sha256:5840f2ae8a7102252a4d5479231dfc6b5e9f92981f2a063e4296fcfa64230704"
)]
fn compressors_are_pinned_whatever_else_runs(
    #[case] codec: Codec,
    #[case] digest: &str,
    #[values(1, 2, 3, 8)] threads: usize,
) {
    let store = Store::new();
    let path = store_path('n', "large");
    store.file(&path, "text", text(5_000_000));
    let packer = Packer::new(threads);
    let pack = || {
        let (layer, _) = packer
            .pack_layer(std::slice::from_ref(&path), &store.root, codec, io::sink())
            .expect("a layer");
        layer
    };
    let first = pack();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(pack)).collect();
        for thread in threads {
            assert_eq!(thread.join().expect("no panic"), first);
        }
    });
    assert!(first.size < first.tar_size * 9 / 10, "it compresses");
    assert_eq!(
        first.digest.to_string(),
        digest,
        "the compressor gives other bytes: if its new version was meant, raise PACKER_VERSION and \
         pin the new digests here"
    );
}
