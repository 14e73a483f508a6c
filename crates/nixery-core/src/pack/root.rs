//! The last layer of an image: a forest of symbolic links into its packages, and what programs
//! expect at fixed places.
#![allow(clippy::unimplemented)]

use std::io::Write;

use nixery_manifest::Compression;

use super::{PackError, PackedLayer, StoreRoot};
use crate::StorePath;

/// The entries of an image's root layer.
#[derive(Clone, Debug)]
pub struct RootLayer {}

impl RootLayer {
    /// Plans the root layer of the packages; the first one wins where two have the same name.
    ///
    /// # Errors
    /// [`PackError`], if a package cannot be read.
    pub fn plan(packages: &[(String, StorePath)], store: &StoreRoot) -> Result<Self, PackError> {
        let _ = (packages, store);
        unimplemented!("lands next")
    }
}

/// Packs a root layer, as [`pack_layer`](super::pack_layer) does.
///
/// # Errors
/// [`PackError`], if `out` fails.
pub fn pack_root_layer<W: Write>(
    root: &RootLayer,
    compression: Compression,
    out: W,
) -> Result<(PackedLayer, W), PackError> {
    let _ = (root, compression, out);
    unimplemented!("lands next")
}
