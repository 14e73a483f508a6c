//! Deterministic layer packing: store paths, or the root of an image, as a compressed tar.

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
pub use self::error::{PackError, PackErrorKind};
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
