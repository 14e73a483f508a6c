//! What holds of the layer of any tree.
#![allow(missing_docs)]

mod pack_support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nixery_core::{Codec, PackError, Packer, StorePath, pack_layer, write_layer_tar};
use nixery_manifest::Digest;
use pack_support::{Entry, Store, read_tar, store_path};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Tree {
    Directory(BTreeMap<Vec<u8>, Tree>),
    File { executable: bool, contents: Vec<u8> },
    Link(Vec<u8>),
}

/// Any name that a directory may hold and a layer too.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        // Next to each other around `/`, so that the order of directories shows.
        4 => prop::sample::select(&b"ab-.0"[..]),
        1 => any::<u8>(),
    ];
    let length = prop_oneof![8 => 1..4_usize, 1 => 40..256_usize];
    length
        .prop_flat_map(move |length| prop::collection::vec(byte.clone(), length))
        .prop_map(|mut name| {
            for byte in &mut name {
                if matches!(byte, b'/' | 0) {
                    *byte = b'_';
                }
            }
            if name == b"." || name == b".." || name.starts_with(b".wh.") {
                name[0] = b'_';
            }
            name
        })
}

fn tree() -> impl Strategy<Value = Tree> {
    let contents = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 500..1100_usize).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let leaf = prop_oneof![
        (any::<bool>(), contents).prop_map(|(executable, contents)| Tree::File {
            executable,
            contents
        }),
        prop::collection::vec(1..=255_u8, 1..120).prop_map(Tree::Link),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop::collection::btree_map(name(), inner, 0..6).prop_map(Tree::Directory)
    })
}

fn write(store: &Store, path: &StorePath, below: &Path, tree: &Tree) {
    match tree {
        Tree::Directory(children) => {
            store.directory(path, below);
            for (name, child) in children {
                write(store, path, &below.join(OsStr::from_bytes(name)), child);
            }
        }
        Tree::File {
            executable: true,
            contents,
        } => {
            store.program(path, below);
            let at = store.at(path, below);
            // As root a file may be written without write permission, as another user not.
            std::fs::remove_file(&at).expect("removed");
            std::fs::write(&at, contents).expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o555);
            std::fs::set_permissions(at, mode).expect("a mode");
        }
        Tree::File {
            executable: false,
            contents,
        } => store.file(path, below, contents),
        Tree::Link(target) => store.link(path, below, OsStr::from_bytes(target)),
    }
}

/// The entries that a tree has to have, in no order.
fn expected(at: PathBuf, tree: &Tree, entries: &mut Vec<Entry>) {
    let mut entry = Entry {
        name: at.as_os_str().as_bytes().to_vec(),
        kind: tar::EntryType::Regular,
        mode: 0o444,
        contents: Vec::new(),
        target: Vec::new(),
    };
    match tree {
        Tree::Directory(children) => {
            entry.name.push(b'/');
            entry.kind = tar::EntryType::Directory;
            entry.mode = 0o555;
            for (name, child) in children {
                expected(at.join(OsStr::from_bytes(name)), child, entries);
            }
        }
        Tree::File {
            executable,
            contents,
        } => {
            entry.contents.clone_from(contents);
            if *executable {
                entry.mode = 0o555;
            }
        }
        Tree::Link(target) => {
            entry.kind = tar::EntryType::Symlink;
            entry.mode = 0o777;
            entry.target.clone_from(target);
        }
    }
    entries.push(entry);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_layer_is_its_trees(one in tree(), two in tree()) {
        let paths = [store_path('1', "one"), store_path('2', "two")];
        let (store, again) = (Store::new(), Store::new());
        write(&store, &paths[0], Path::new(""), &one);
        write(&store, &paths[1], Path::new(""), &two);
        // Created in the other order: listings of the file system may come differently.
        write(&again, &paths[1], Path::new(""), &two);
        write(&again, &paths[0], Path::new(""), &one);

        let tar = write_layer_tar(&paths, &store.root, Vec::new()).expect("a layer");
        let found = read_tar(&tar);
        prop_assert!(found.is_sorted_by(|one, two| one.name < two.name), "sorted, none twice");

        let mut wanted = Vec::new();
        for (path, tree) in paths.iter().zip([&one, &two]) {
            expected(PathBuf::from(&path.as_str()[1..]), tree, &mut wanted);
        }
        wanted.sort_by(|one, two| one.name.cmp(&two.name));
        prop_assert_eq!(&found[2..], &wanted[..]);

        for codec in [Codec::Gzip, Codec::GzipSingle, Codec::Zstd] {
            let (layer, bytes) =
                pack_layer(&paths, &store.root, codec, Vec::new()).expect("a layer");
            prop_assert_eq!(layer.diff_id, Digest::of(&tar));
            prop_assert_eq!(layer.digest, Digest::of(&bytes));
            for threads in [1, 2, 3, 8] {
                let (second, _) = Packer::new(threads)
                    .pack_layer(&paths, &again.root, codec, std::io::sink())
                    .expect("a layer");
                prop_assert_eq!(&layer, &second);
            }
        }
    }

    #[test]
    fn a_whiteout_anywhere_is_refused(parents in prop::collection::vec(name(), 0..4), name in name()) {
        let store = Store::new();
        let path = store_path('3', "evil");
        let mut below = PathBuf::new();
        for parent in parents {
            below.push(OsStr::from_bytes(&parent));
        }
        let mut evil = b".wh.".to_vec();
        evil.extend(name.iter().take(200));
        below.push(OsStr::from_bytes(&evil));
        store.file(&path, &below, "");
        let result = write_layer_tar(std::slice::from_ref(&path), &store.root, std::io::sink());
        let refused = matches!(result, Err(PackError::Whiteout { path: at })
            if at == Path::new(path.as_str()).join(&below));
        prop_assert!(refused);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Layers of several blocks, which several threads share.
    #[test]
    fn threads_never_show(
        files in prop::collection::vec((any::<u8>(), 0..900_000_usize), 1..12),
        codec in prop::sample::select(&[Codec::Gzip, Codec::GzipSingle, Codec::Zstd][..]),
    ) {
        let store = Store::new();
        let path = store_path('4', "large");
        for (number, (byte, size)) in files.iter().enumerate() {
            let mut contents = vec![*byte; *size];
            contents.iter_mut().step_by(7).zip(0_u32..).for_each(|(byte, n)| *byte ^= (n.wrapping_mul(n) >> 5) as u8);
            store.file(&path, format!("file{number}"), contents);
        }
        let paths = [path];
        let (alone, bytes) =
            pack_layer(&paths, &store.root, codec, Vec::new()).expect("a layer");
        for threads in [1, 2, 3, 8] {
            let (layer, same) = Packer::new(threads)
                .pack_layer(&paths, &store.root, codec, Vec::new())
                .expect("a layer");
            prop_assert_eq!(&layer, &alone);
            prop_assert!(same == bytes, "{} threads", threads);
        }
    }
}
