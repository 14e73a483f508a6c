//! Planning root layers and reading the plans.

use std::path::Path;

use nixery_core::{ConflictKind, RootEntryKind, RootLayer, StorePath};

use super::Store;

pub fn plan(store: &Store, packages: &[&StorePath]) -> RootLayer {
    let packages: Vec<StorePath> = packages.iter().copied().cloned().collect();
    RootLayer::plan(&packages, &store.root).expect("a root layer")
}

/// What is at a path: `directory 755`, `file 644 …`, or `-> target`, the store path's hash left
/// out.
pub fn at(root: &RootLayer, path: &str) -> Option<String> {
    let entry = root.entries().iter().find(|e| e.path == Path::new(path))?;
    Some(match &entry.kind {
        RootEntryKind::Directory { mode } => format!("directory {mode:o}"),
        RootEntryKind::File { mode, contents } => {
            format!("file {mode:o} {}", String::from_utf8_lossy(contents))
        }
        RootEntryKind::Link { target } => {
            let target = target.to_str().expect("UTF-8");
            let target = target.strip_prefix("/nix/store/").expect("a store path");
            format!("-> {}", &target[33..])
        }
    })
}

/// The entries that packages cause.
pub fn forest(root: &RootLayer) -> Vec<String> {
    let own = plan(&Store::new(), &[]);
    root.entries()
        .iter()
        .filter(|entry| !own.entries().contains(entry))
        .map(|entry| {
            let path = entry.path.to_str().expect("UTF-8");
            format!("{path} {}", at(root, path).expect("an entry"))
        })
        .collect()
}

pub fn kinds(root: &RootLayer) -> Vec<(String, ConflictKind)> {
    root.conflicts()
        .iter()
        .map(|conflict| (conflict.path.display().to_string(), conflict.kind))
        .collect()
}
