//! [`Key`]: the only place where names inside a store are made and read.

use std::fmt;
use std::str::FromStr;

use nixery_manifest::Digest;

/// Bytes of a SHA-1 digest, the cache keys of the original Nixery.
const SHA1_BYTES: usize = 20;

/// The folders of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// `layers/`: every blob (layers, image configs), named by its own SHA-256.
    Blob,
    /// `manifests/`: cached manifests, named by the cache key of their inputs.
    Manifest,
    /// `builds/`: cached layer builds, named by the cache key of their inputs.
    Build,
    /// `uses/`: marks whose age tells when a blob was last needed, named by the blob's SHA-256.
    Use,
    /// `leases/`: who is doing what only one process should do, named by the SHA-256 of the task.
    Lease,
    /// `graphs/`: the reference graphs of built images, each named as its entry under `manifests/`.
    Graph,
    /// `plans/`: cluster plans that servers have learned, named by their SHA-256, and what says which is used.
    Plan,
    /// `traffic/`: batches of recorded pulls, named by the SHA-256 of what is in them.
    Traffic,
}

impl KeyKind {
    /// Every kind, in the order in which stores are listed and verified.
    pub const ALL: [Self; 8] = [
        Self::Blob,
        Self::Manifest,
        Self::Build,
        Self::Use,
        Self::Lease,
        Self::Graph,
        Self::Traffic,
        Self::Plan,
    ];

    /// The kinds that hold content. What the others hold may be lost at any time.
    pub const CONTENT: [Self; 3] = [Self::Blob, Self::Manifest, Self::Build];

    /// The folder of this kind, without slashes; content lies as in the original's buckets.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Blob => "layers",
            Self::Manifest => "manifests",
            Self::Build => "builds",
            Self::Use => "uses",
            Self::Lease => "leases",
            Self::Graph => "graphs",
            Self::Traffic => "traffic",
            Self::Plan => "plans",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// The name of one object in a store. Displayed as its path, `layers/<64 hex digits>`.
///
/// ```
/// use nixery_manifest::Digest;
/// use nixery_storage::{Key, KeyKind};
///
/// let key = Key::Blob(Digest::of(b""));
/// assert_eq!(
///     key.path(),
///     "layers/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
/// );
/// assert_eq!(Key::parse(&key.path()), Some(key));
/// assert_eq!(key.kind(), KeyKind::Blob);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Key {
    /// A blob, under the SHA-256 of its bytes.
    Blob(Digest),
    /// A cached manifest, under the SHA-256 cache key of what it was built from.
    Manifest(Digest),
    /// A cached layer build, under the SHA-256 cache key of the layer's contents.
    Build(Digest),
    /// When the blob with this SHA-256 was last needed: the age of the object tells.
    Use(Digest),
    /// The lease of a task, under the SHA-256 of the task's name.
    Lease(Digest),
    /// The reference graph of a built image, under the cache key of its manifest.
    Graph(Digest),
    /// A batch of recorded pulls, under its SHA-256.
    Traffic(Digest),
    /// A cluster plan, under its SHA-256, or what says which is used, under a name that never changes.
    Plan(Digest),
    /// A manifest cached by the original Nixery, whose keys are SHA-1. Read for migration, never written.
    LegacyManifest([u8; SHA1_BYTES]),
    /// A layer build cached by the original Nixery, whose keys are SHA-1. Read for migration, never written.
    LegacyBuild([u8; SHA1_BYTES]),
}

impl Key {
    /// The folder this key lives in.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        match self {
            Self::Blob(_) => KeyKind::Blob,
            Self::Manifest(_) | Self::LegacyManifest(_) => KeyKind::Manifest,
            Self::Build(_) | Self::LegacyBuild(_) => KeyKind::Build,
            Self::Use(_) => KeyKind::Use,
            Self::Lease(_) => KeyKind::Lease,
            Self::Graph(_) => KeyKind::Graph,
            Self::Traffic(_) => KeyKind::Traffic,
            Self::Plan(_) => KeyKind::Plan,
        }
    }

    /// The name inside the folder: 64 lower-case hex digits, 40 for the original's entries.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Blob(digest)
            | Self::Manifest(digest)
            | Self::Build(digest)
            | Self::Use(digest)
            | Self::Lease(digest)
            | Self::Graph(digest)
            | Self::Traffic(digest)
            | Self::Plan(digest) => digest.hex(),
            Self::LegacyManifest(sha1) | Self::LegacyBuild(sha1) => hex(sha1),
        }
    }

    /// The path relative to the store's root, with `/` between folder and name.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.kind().folder(), self.name())
    }

    /// The media type to store the object under, where a backend keeps one.
    ///
    /// A blob's true type depends on the manifest that names it, so blobs are plain bytes.
    #[must_use]
    pub const fn content_type(&self) -> &'static str {
        match self.kind() {
            KeyKind::Blob | KeyKind::Graph | KeyKind::Traffic | KeyKind::Plan => {
                "application/octet-stream"
            }
            KeyKind::Manifest | KeyKind::Build | KeyKind::Use | KeyKind::Lease => {
                "application/json"
            }
        }
    }

    /// Whether the entry was written by the original Nixery.
    #[must_use]
    pub const fn is_legacy(&self) -> bool {
        matches!(self, Self::LegacyManifest(_) | Self::LegacyBuild(_))
    }

    /// Reads a path as [`Key::path`] writes it; `None` for anything else.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (folder, name) = path.split_once('/')?;
        let kind = KeyKind::ALL
            .into_iter()
            .find(|kind| kind.folder() == folder)?;
        Self::from_name(kind, name)
    }

    /// Reads the name of an entry found in the folder of `kind`; `None` for foreign names.
    #[must_use]
    pub fn from_name(kind: KeyKind, name: &str) -> Option<Self> {
        if let Ok(digest) = Digest::from_hex(name) {
            return Some(match kind {
                KeyKind::Blob => Self::Blob(digest),
                KeyKind::Manifest => Self::Manifest(digest),
                KeyKind::Build => Self::Build(digest),
                KeyKind::Use => Self::Use(digest),
                KeyKind::Lease => Self::Lease(digest),
                KeyKind::Graph => Self::Graph(digest),
                KeyKind::Traffic => Self::Traffic(digest),
                KeyKind::Plan => Self::Plan(digest),
            });
        }
        let sha1 = sha1_from_hex(name)?;
        match kind {
            KeyKind::Manifest => Some(Self::LegacyManifest(sha1)),
            KeyKind::Build => Some(Self::LegacyBuild(sha1)),
            KeyKind::Blob
            | KeyKind::Use
            | KeyKind::Lease
            | KeyKind::Graph
            | KeyKind::Traffic
            | KeyKind::Plan => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind().folder(), self.name())
    }
}

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        Self::parse(path).ok_or_else(|| NotAKey { path: path.into() })
    }
}

/// A path that is not the name of an object in a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{path}' is not a key of a store: expected layers/, manifests/, builds/, uses/, leases/, graphs/, traffic/ or plans/ and a digest in lower-case hex"
)]
pub struct NotAKey {
    /// What was read.
    pub path: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha1_from_hex(name: &str) -> Option<[u8; SHA1_BYTES]> {
    let name = name.as_bytes();
    if name.len() != 2 * SHA1_BYTES {
        return None;
    }
    let mut bytes = [0; SHA1_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(name.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Lower case only: a key has one spelling, or one object could be listed under two names.
const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const SHA1: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

    #[rstest]
    #[case(Key::Blob(Digest::of(b"")), format!("layers/{SHA256}"))]
    #[case(Key::Manifest(Digest::of(b"")), format!("manifests/{SHA256}"))]
    #[case(Key::Build(Digest::of(b"")), format!("builds/{SHA256}"))]
    #[case(Key::Use(Digest::of(b"")), format!("uses/{SHA256}"))]
    #[case(Key::Lease(Digest::of(b"")), format!("leases/{SHA256}"))]
    #[case(Key::Graph(Digest::of(b"")), format!("graphs/{SHA256}"))]
    #[case(Key::Traffic(Digest::of(b"")), format!("traffic/{SHA256}"))]
    #[case(Key::Plan(Digest::of(b"")), format!("plans/{SHA256}"))]
    fn a_key_prints_and_parses(#[case] key: Key, #[case] path: String) {
        assert_eq!(key.path(), path);
        assert_eq!(key.to_string(), path);
        assert_eq!(path.parse(), Ok(key));
        assert!(!key.is_legacy());
    }

    #[rstest]
    #[case("manifests", KeyKind::Manifest)]
    #[case("builds", KeyKind::Build)]
    fn the_originals_entries_are_keys(#[case] folder: &str, #[case] kind: KeyKind) {
        let path = format!("{folder}/{SHA1}");
        let key = Key::parse(&path).expect("a legacy key");
        assert!(key.is_legacy());
        assert_eq!(key.kind(), kind);
        assert_eq!(key.path(), path);
    }

    #[rstest]
    #[case::empty("")]
    #[case::folder_only("layers/")]
    #[case::no_folder(SHA256)]
    #[case::other_folder("staging/da39a3ee5e6b4b0d3255bfef95601890afd80709")]
    #[case::sha1_blob("layers/da39a3ee5e6b4b0d3255bfef95601890afd80709")]
    #[case::upper_case("builds/DA39A3EE5E6B4B0D3255BFEF95601890AFD80709")]
    #[case::not_hex("builds/xx39a3ee5e6b4b0d3255bfef95601890afd80709")]
    #[case::way_out("layers/../manifests/x")]
    #[case::leading_slash("/layers/x")]
    #[case::algorithm(
        "layers/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )]
    fn foreign_names_are_not_keys(#[case] path: &str) {
        assert_eq!(Key::parse(path), None);
        let error = path.parse::<Key>().expect_err("not a key");
        assert!(error.to_string().contains("lower-case hex"));
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_the_same(path in "(layers|manifests|builds|uses|leases|graphs|traffic|plans)/[0-9a-f]{38,66}|.*") {
            if let Some(key) = Key::parse(&path) {
                prop_assert_eq!(key.path(), path);
            }
        }
    }
}
