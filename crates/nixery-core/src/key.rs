//! Cache keys: names of finished work, computed from everything that its bytes depend on.
//!
//! A key is the SHA-256 of a JSON document, so different inputs never give the same text, as joined
//! strings could. Each document names its kind, so a layer's key is never an image's.

use nixery_manifest::Digest;
use serde::Serialize;

use crate::arch::Architecture;
use crate::codec::Codec;
use crate::nar_hash::NarHash;
use crate::store_path::StorePath;

/// The version of the bytes that packing gives for one input. It is part of every cache key. Raise
/// it with any change to the tar, to the compressors or to their settings: the tests that pin
/// digests fail then.
pub const PACKER_VERSION: u32 = 2;

/// Version of the key documents and of what is built from them besides layers: raise it when
/// the image config or the manifest changes for the same inputs.
const IMAGE_VERSION: u32 = 1;

/// Everything that an image's manifest depends on.
///
/// Everything else in an image, such as its labels, must be a function of these.
#[derive(Debug, Clone, Serialize)]
pub struct ManifestKeyInputs<'a> {
    /// What the packages are.
    pub identity: SourceIdentity<'a>,
    /// The packages, as [`ImageName::packages`](crate::ImageName::packages) gives them. Their order
    /// matters: it decides whose file the root layer has.
    pub packages: &'a [String],
    /// The architecture.
    pub architecture: Architecture,
    /// Whether the image has a shell.
    pub shell: bool,
    /// The layer strategy's [`id`](crate::LayerStrategy::id), which covers its parameters and
    /// data.
    pub strategy: &'a str,
    /// The most layers of the plan.
    pub budget: usize,
    /// How layers are compressed.
    pub compression: Codec,
    /// [`PACKER_VERSION`].
    pub packer_version: u32,
}

/// The identity of the packages' contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceIdentity<'a> {
    /// A source that is pinned to a commit, before anything is evaluated.
    Revision {
        /// [`ResolvedSource::src_type`](crate::ResolvedSource::src_type).
        src_type: &'a str,
        /// [`ResolvedSource::src_args`](crate::ResolvedSource::src_args).
        src_args: &'a str,
        /// What the evaluation depends on besides the source, such as variables that it can read.
        #[serde(skip_serializing_if = "Option::is_none")]
        configuration: Option<Digest>,
    },
    /// The packages' derivations with the outputs wanted of them, in the packages' order. They also
    /// pin a moving channel or a directory.
    Derivations(&'a [String]),
}

/// The key of an image's manifest.
///
/// ```
/// use nixery_core::{Architecture, ImageName, ManifestKeyInputs, SourceIdentity, manifest_key};
///
/// let key = |name: &str| {
///     let name: ImageName = name.parse()?;
///     let inputs = ManifestKeyInputs {
///         identity: SourceIdentity::Revision {
///             src_type: "nixpkgs",
///             src_args: "0123456789abcdef0123456789abcdef01234567",
///             configuration: None,
///         },
///         packages: name.packages(),
///         architecture: name.architecture(),
///         shell: name.shell(),
///         strategy: "dominator",
///         budget: 94,
///         compression: nixery_core::Codec::Gzip,
///         packer_version: nixery_core::PACKER_VERSION,
///     };
///     Ok::<_, nixery_core::NameError>(manifest_key(&inputs))
/// };
/// assert_eq!(key("git/htop")?, key("htop/git")?);
/// assert_ne!(key("git")?, key("arm64/git")?);
/// # Ok::<(), nixery_core::NameError>(())
/// ```
pub fn manifest_key(inputs: &ManifestKeyInputs<'_>) -> Digest {
    key(&Document::Image {
        version: IMAGE_VERSION,
        inputs,
    })
}

/// The key of a layer of these store paths, in any order.
///
/// The key covers the NAR hashes because builds may not be reproducible: two machines may have
/// different bytes at one store path.
pub fn layer_key(
    members: &[(&StorePath, &NarHash)],
    compression: Codec,
    packer_version: u32,
) -> Digest {
    let mut members: Vec<_> = members
        .iter()
        .map(|(path, nar_hash)| (path.as_str(), nar_hash.to_string()))
        .collect();
    members.sort_unstable();
    key(&Document::Layer {
        packer_version,
        compression,
        members,
    })
}

/// The document that is hashed.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Document<'a> {
    Image {
        version: u32,
        inputs: &'a ManifestKeyInputs<'a>,
    },
    Layer {
        packer_version: u32,
        compression: Codec,
        /// Store path and NAR hash, sorted.
        members: Vec<(&'a str, String)>,
    },
}

fn key(document: &Document<'_>) -> Digest {
    let json = serde_json::to_vec(document)
        .expect("a document of strings, integers and lists serialises to JSON");
    Digest::of(&json)
}

#[cfg(test)]
mod tests;
