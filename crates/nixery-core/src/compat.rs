//! The original's cache keys, for migration and comparison. Never used for anything new.
//!
//! The original (the Go program Nixery is) names a cached layer and a cached manifest by SHA-1.
//! Both keys are too weak to serve from: neither covers the architecture or the contents of a
//! store path, and joined names are ambiguous (`git` + `htop` and `githtop` give one key). They
//! serve to find an old bucket's entries and to compare layer plans with the original's.

use sha1::{Digest, Sha1};

use crate::source::ResolvedSource;

/// The original's key of a layer: SHA-1 of its store paths joined by `:`, in hexadecimal.
///
/// The order matters. The original sorts the paths of a layer that was never merged. When it merges
/// layers, it appends the list of each larger one, unsorted.
pub fn original_layer_key<S: AsRef<str>>(contents: &[S]) -> String {
    let mut hash = Sha1::new();
    for (index, path) in contents.iter().enumerate() {
        if index > 0 {
            hash.update(b":");
        }
        hash.update(path.as_ref());
    }
    hex(hash)
}

/// The original's key of an image's manifest: SHA-1 of the sorted package names joined without
/// a separator and followed by the revision, in hexadecimal; `None` if the source is not pinned.
///
/// `packages` are those of [`ImageName::packages`](crate::ImageName::packages). The original kept
/// repeated names, so a name such as `git/git` had another key there.
pub fn original_image_key<S: AsRef<str>>(
    packages: &[S],
    source: &ResolvedSource,
) -> Option<String> {
    let revision = source.revision.as_deref()?;
    let mut packages: Vec<&str> = packages.iter().map(AsRef::as_ref).collect();
    packages.sort_unstable();
    let mut hash = Sha1::new();
    for package in packages {
        hash.update(package);
    }
    hash.update(revision);
    Some(hex(hash))
}

fn hex(hash: Sha1) -> String {
    let bytes = hash.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
