//! Deterministic layer packing: store paths, or the root of an image, as a compressed tar.
//!
//! The bytes of a layer depend on what Nix's own archive format (NAR) keeps of a store path, and
//! on nothing else of the host: the type of each file, its contents, whether its owner may execute
//! it, the target of a link. Two stores that hold the same paths give the same layers, whoever
//! owns the files, whenever they were made, and however many threads are at work.
//!
//! # The format
//!
//! | entry | mode |
//! |---|---|
//! | the directories above the store paths, `nix/` and `nix/store/` | 0755 |
//! | directories, empty ones too | 0555 |
//! | files the owner may execute | 0555 |
//! | other files | 0444 |
//! | symbolic links | 0777 |
//!
//! - Owner and group 0 without names, modification time 1 s, no extended attributes, no hard
//!   links (a file that has several names is written as often).
//! - Names are relative (`nix/store/…`), those of directories end in `/`, and the entries of a
//!   layer are sorted bytewise by these names; none comes twice. So a directory comes before what
//!   it holds, and `lib-x` before `lib/`.
//! - GNU tar headers; names and targets over 100 bytes as GNU long names, which hold any bytes;
//!   sizes over 8 GiB in base 256.
//! - The tar is cut into blocks of exactly 1 MiB, the last one shorter, and each is compressed on
//!   its own: the bytes do not tell how many threads did it. [`Codec`] says into what: gzip
//!   members (libdeflate, level 4), one gzip member (zlib-rs, level 5, flushed after each block,
//!   ended by an empty block), or zstd frames (level 3, which tell their size and have no
//!   checksum). The heads of gzip members name no file, time or system.
//!
//! Refused, with the path: names that start with `.wh.` (an unpacker would delete files), sockets,
//! pipes and devices, files that change while they are read. Paths longer than the system's limit
//! (4,096 bytes on Linux) cannot be read, by Nix neither.
//!
//! Any change to the bytes has to raise [`PACKER_VERSION`](crate::PACKER_VERSION), which is part of every cache key.
//!
//! # Example
//!
//! ```
//! use std::os::unix::fs::symlink;
//!
//! use nixery_core::{StorePath, StoreRoot, pack_layer};
//! use nixery_manifest::{Compression, Digest};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A store at another place than `/nix/store`: below the prefix `root`.
//! let root = tempfile::tempdir()?;
//! let store = StoreRoot::new(root.path());
//! let path = StorePath::parse("/nix/store/0c5qsh4h6sjn5qlkjw2yzwiqpqc2sywc-hello-2.12")?;
//! std::fs::create_dir_all(store.locate(&path).join("bin"))?;
//! symlink("hello", store.locate(&path).join("bin/hi"))?;
//!
//! let (layer, bytes) = pack_layer(&[path], &store, Compression::Gzip, Vec::new())?;
//! assert_eq!(layer.size, bytes.len() as u64);
//! assert_eq!(layer.digest, Digest::of(&bytes));
//! # Ok(())
//! # }
//! ```

mod blocks;
mod conflict;
mod encoder;
mod error;
mod forest;
mod job;
mod packer;
mod pipeline;
mod pool;
mod resolve;
mod root;
mod tar;
mod walk;

use std::io::Write;

use nixery_manifest::{Compression, Digest};

pub use self::conflict::{Conflict, ConflictKind};
pub use self::error::PackError;
pub use self::packer::Packer;
pub use self::root::{RootEntry, RootEntryKind, RootLayer, pack_root_layer};

use self::blocks::Block;
use self::packer::Plain;
use self::tar::TarWriter;
use crate::{Codec, StorePath, StoreRoot};

/// The facts about a packed layer, known to the pass that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedLayer {
    /// SHA-256 of the compressed bytes: the layer's name in a manifest and in the blob store.
    pub digest: Digest,
    /// SHA-256 of the tar: the layer's name in an image's configuration.
    pub diff_id: Digest,
    /// Compressed size in bytes.
    pub size: u64,
    /// Size of the tar in bytes.
    pub tar_size: u64,
    /// How the tar is compressed.
    pub compression: Compression,
}

/// Packs store paths into a compressed layer on the calling thread alone: what
/// [`Packer::pack_layer`] does with one thread. The bytes are the same.
///
/// # Errors
/// As [`Packer::pack_layer`].
pub fn pack_layer<W: Write>(
    paths: &[StorePath],
    store: &StoreRoot,
    codec: impl Into<Codec>,
    out: W,
) -> Result<(PackedLayer, W), PackError> {
    Packer::new(1).pack_layer(paths, store, codec, out)
}

/// Writes the tar of a layer, not compressed, to `out` in blocks of 1 MiB.
///
/// # Errors
/// As [`Packer::pack_layer`].
pub fn write_layer_tar<W: Write>(
    paths: &[StorePath],
    store: &StoreRoot,
    out: W,
) -> Result<W, PackError> {
    let mut tar = TarWriter::new(Block::new(), Plain(out));
    walk::write_store_paths(&mut tar, paths, store)?;
    let Plain(mut out) = tar.finish()?;
    out.flush().map_err(|source| PackError::Write { source })?;
    Ok(out)
}
