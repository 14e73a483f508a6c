//! Deterministic layer packing: store paths, or the root of an image, as a compressed tar.

mod blocks;
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
use serde::{Deserialize, Serialize};

pub use self::error::{PackError, PackErrorKind};
pub use self::packer::Packer;
pub use self::root::{Conflict, ConflictKind, RootEntry, RootEntryKind, RootLayer};

use self::blocks::{Block, BlockSink};
use self::tar::TarWriter;
use crate::{Codec, StorePath, StoreRoot};

/// The facts about a packed layer. Stores keep them in this form, for layers that are packed
/// already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Packs store paths into a compressed layer on the calling thread alone. The bytes are the same as
/// those of [`Packer::pack_layer`].
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
    let mut tar = TarWriter::new(Block::new(), PlainSink(out));
    walk::write_store_paths(&mut tar, paths, store)?;
    let PlainSink(mut out) = tar.finish()?;
    out.flush().map_err(|source| PackError::Write { source })?;
    Ok(out)
}

/// Writes blocks as they are.
struct PlainSink<W>(W);

impl<W: Write> BlockSink for PlainSink<W> {
    fn block(&mut self, mut block: Block) -> Result<Block, PackError> {
        let written = self.0.write_all(block.filled());
        written.map_err(|source| PackError::Write { source })?;
        block.clear();
        Ok(block)
    }
}
