//! Packs layers with several threads.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use super::encoder::Encoders;
use super::job::Encode;
use super::pipeline::Pipeline;
use super::pool::Pool;
use super::tar::TarWriter;
use super::{PackError, PackedLayer, RootLayer, root, walk};
use crate::{Codec, StorePath, StoreRoot};

/// Packs layers with a limited number of threads.
///
/// Share one packer in a process. Each calling thread packs its layer, and free threads of the
/// packer help with the blocks of 1 MiB. So small layers are packed side by side, and one large
/// layer is packed by all threads. Bytes do not depend on the number of threads. Memory is bounded
/// by it: about 5 MiB per thread.
///
/// The packer's own threads, one fewer than it may use, start when they are first needed, and end
/// when it is dropped.
///
/// ```
/// use std::sync::Arc;
///
/// use nixery_core::{Codec, Packer, StorePath, StoreRoot};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let root = tempfile::tempdir()?;
/// # let store = StoreRoot::new(root.path());
/// # let path = StorePath::parse("/nix/store/0c5qsh4h6sjn5qlkjw2yzwiqpqc2sywc-hello-2.12")?;
/// # std::fs::create_dir_all(store.locate(&path))?;
/// let packer = Arc::new(Packer::new(4));
/// let (layer, bytes) = packer.pack_layer(&[path], &store, Codec::Zstd, Vec::new())?;
/// assert_eq!(layer.size, bytes.len() as u64);
/// # Ok(())
/// # }
/// ```
///
/// The bytes of a layer depend only on what Nix's own archive format (NAR) keeps of a store path:
/// the type of each file, its contents, whether its owner may execute it, the target of a link. Two
/// stores with the same paths give the same layers, whatever the owners and times of the files and
/// the number of threads.
///
/// # The format
///
/// | entry | mode |
/// |---|---|
/// | the directories above the store paths, `nix/` and `nix/store/` | 0755 |
/// | directories, empty ones too | 0555 |
/// | files the owner may execute | 0555 |
/// | other files | 0444 |
/// | symbolic links | 0777 |
///
/// - Owner and group 0 without names, modification time 1 s, no extended attributes, no hard
///   links (a file that has several names is written as often).
/// - Names are relative (`nix/store/…`), those of directories end in `/`, and the entries of a
///   layer are sorted bytewise by these names. None occurs twice. So a directory comes before its
///   entries, and `lib-x` before `lib/`.
/// - GNU tar headers; names and targets over 100 bytes as GNU long names, which hold any bytes;
///   sizes over 8 GiB in base 256.
/// - The tar is cut into blocks of exactly 1 MiB, the last one shorter, and each is compressed on
///   its own, so that the bytes do not depend on the number of threads. The [`Codec`] gives gzip
///   members (libdeflate, level 4), one gzip member (zlib-rs, level 5, flushed after each block,
///   ended by an empty block), or zstd frames (level 3, with their size and without a checksum).
///   The heads of gzip members name no file, time or system.
///
/// Refused, with the path: names that start with `.wh.` (an unpacker would delete files), sockets,
/// pipes and devices, files that change while they are read. Paths longer than the system's limit
/// (4,096 bytes on Linux) cannot be read, not even by Nix.
///
/// Any change to the bytes has to raise [`PACKER_VERSION`](crate::PACKER_VERSION), which is part of
/// every cache key.
///
/// # Example
///
/// ```
/// use std::os::unix::fs::symlink;
///
/// use nixery_core::{StorePath, StoreRoot, pack_layer};
/// use nixery_manifest::{Compression, Digest};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A store at another place than `/nix/store`: below the prefix `root`.
/// let root = tempfile::tempdir()?;
/// let store = StoreRoot::new(root.path());
/// let path = StorePath::parse("/nix/store/0c5qsh4h6sjn5qlkjw2yzwiqpqc2sywc-hello-2.12")?;
/// std::fs::create_dir_all(store.locate(&path).join("bin"))?;
/// symlink("hello", store.locate(&path).join("bin/hi"))?;
///
/// let (layer, bytes) = pack_layer(&[path], &store, Compression::Gzip, Vec::new())?;
/// assert_eq!(layer.size, bytes.len() as u64);
/// assert_eq!(layer.digest, Digest::of(&bytes));
/// # Ok(())
/// # }
/// ```
pub struct Packer {
    pool: Arc<Pool>,
}

impl Packer {
    /// A packer that uses this number of threads, calling threads included; 0 counts as 1. It
    /// starts none yet.
    pub fn new(threads: usize) -> Self {
        Self::with_encoder(threads, Encoders::encode)
    }

    pub(super) fn with_encoder(threads: usize, encode: Encode) -> Self {
        Self {
            pool: Arc::new(Pool::new(threads, encode)),
        }
    }

    /// Packs store paths into a compressed layer and writes it to `out`, in one pass over the files
    /// and in constant memory.
    ///
    /// Order and repetition of `paths` do not matter. Without paths the tar is empty. Returns the
    /// layer's facts and `out`, flushed. Waits while as many layers are being packed as there are
    /// threads, so `out` must not pack with the same packer.
    ///
    /// # Errors
    /// A path is missing, cannot be read, holds what no layer may, or changes meanwhile; or `out`
    /// fails. The bytes that `out` has received are then not a layer.
    pub fn pack_layer<W: Write>(
        &self,
        paths: &[StorePath],
        store: &StoreRoot,
        codec: impl Into<Codec>,
        out: W,
    ) -> Result<(PackedLayer, W), PackError> {
        self.pack(codec.into(), out, |tar| {
            walk::write_store_paths(tar, paths, store)
        })
    }

    /// Packs a root layer into `out`, as [`pack_layer`](Self::pack_layer) packs store paths.
    ///
    /// # Errors
    /// [`PackError::Write`] if `out` fails.
    pub fn pack_root_layer<W: Write>(
        &self,
        root: &RootLayer,
        codec: impl Into<Codec>,
        out: W,
    ) -> Result<(PackedLayer, W), PackError> {
        self.pack(codec.into(), out, |tar| root::write(tar, root))
    }

    /// Packs the entries that `write` writes.
    pub(super) fn pack<W: Write>(
        &self,
        codec: Codec,
        out: W,
        write: impl FnOnce(&mut TarWriter<Pipeline<W>>) -> Result<(), PackError>,
    ) -> Result<(PackedLayer, W), PackError> {
        let (pipeline, block) = Pipeline::new(&self.pool, codec, out)?;
        let mut tar = TarWriter::new(block, pipeline);
        write(&mut tar)?;
        tar.finish()?.finish()
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
