//! [`Folder`] and [`Key`]: the names of objects in a store.

use std::fmt;

use nixery_manifest::Digest;

/// Bytes of a SHA-1 digest, which names the cache entries of the original Nixery.
const SHA1_BYTES: usize = 20;

/// The folder of all blobs: layers, image configs and manifests, named by the SHA-256 of their
/// bytes.
pub const BLOBS: Folder = Folder::new("layers", Contents::Addressed);

/// A folder of a store. The owner of a kind of object declares its folder as a constant.
///
/// ```
/// use nixery_manifest::Digest;
/// use nixery_storage::{Contents, Folder, Key};
///
/// const NOTES: Folder = Folder::new("notes", Contents::Json);
///
/// let key = Key::new(NOTES, Digest::of(b""));
/// assert_eq!(
///     key.path(),
///     "notes/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
/// );
/// assert_eq!(Key::from_name(NOTES, &key.name()), Some(key));
/// assert_eq!(key.folder(), NOTES);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Folder {
    name: &'static str,
    contents: Contents,
    sha1_names: bool,
}

/// What the objects of a folder hold. Determines their media type and what
/// [`verify`](crate::verify::verify) checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Contents {
    /// Bytes that are named by their own SHA-256, which is verified. Stored as plain bytes: their
    /// media type depends on the manifest that refers to them.
    Addressed,
    /// A JSON document under a key that its owner computes. Verified to be JSON.
    Json,
    /// Bytes in a format of the owner. Not verified.
    Binary,
}

impl Folder {
    /// The folder `name`, whose objects hold `contents`.
    ///
    /// # Panics
    /// When `name` contains anything but lower-case letters and `-`, or is `tmp`, the folder of
    /// the filesystem backend's temporary files. In a constant this is a compile-time error.
    #[must_use]
    pub const fn new(name: &'static str, contents: Contents) -> Self {
        let bytes = name.as_bytes();
        assert!(
            !bytes.is_empty() && !matches!(bytes, b"tmp"),
            "a folder needs a name other than `tmp`"
        );
        let mut at = 0;
        while at < bytes.len() {
            assert!(
                bytes[at].is_ascii_lowercase() || bytes[at] == b'-',
                "a folder's name consists of lower-case letters and `-`"
            );
            at += 1;
        }
        Self {
            name,
            contents,
            sha1_names: false,
        }
    }

    /// The same folder, which also holds entries that the original Nixery named by SHA-1.
    #[must_use]
    pub const fn with_sha1_names(self) -> Self {
        Self {
            sha1_names: true,
            ..self
        }
    }

    /// The name, without slashes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// What the objects hold.
    #[must_use]
    pub const fn contents(self) -> Contents {
        self.contents
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The name of one object in a store: a folder and a digest. Displayed as its path,
/// `layers/<64 hex digits>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    folder: Folder,
    name: Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Sha256(Digest),
    Sha1([u8; SHA1_BYTES]),
}

impl Key {
    /// The object in `folder` with the name `digest`.
    #[must_use]
    pub const fn new(folder: Folder, digest: Digest) -> Self {
        let name = Name::Sha256(digest);
        Self { folder, name }
    }

    /// The blob with this SHA-256.
    #[must_use]
    pub const fn blob(digest: Digest) -> Self {
        Self::new(BLOBS, digest)
    }

    /// An entry of the original Nixery, named by SHA-1. Such entries are read, but never written.
    #[must_use]
    pub const fn legacy(folder: Folder, sha1: [u8; SHA1_BYTES]) -> Self {
        let name = Name::Sha1(sha1);
        Self { folder, name }
    }

    /// Parses the name of an entry found in `folder`; `None` for foreign names.
    ///
    /// A name has 64 lower-case hex digits, or 40 in a folder
    /// [with SHA-1 names](Folder::with_sha1_names).
    #[must_use]
    pub fn from_name(folder: Folder, name: &str) -> Option<Self> {
        if let Ok(digest) = Digest::from_hex(name) {
            return Some(Self::new(folder, digest));
        }
        let sha1 = sha1_from_hex(name).filter(|_| folder.sha1_names)?;
        Some(Self::legacy(folder, sha1))
    }

    /// The folder of the object.
    #[must_use]
    pub const fn folder(&self) -> Folder {
        self.folder
    }

    /// The digest that names the object; `None` for an entry of the original Nixery.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        match self.name {
            Name::Sha256(digest) => Some(digest),
            Name::Sha1(_) => None,
        }
    }

    /// The name inside the folder, in lower-case hex.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.name {
            Name::Sha256(digest) => digest.hex(),
            Name::Sha1(sha1) => sha1.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// The path relative to the store's root, with `/` between folder and name.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.folder, self.name())
    }

    /// The media type to store the object under, where a backend keeps one.
    #[must_use]
    pub const fn content_type(&self) -> &'static str {
        match self.folder.contents {
            Contents::Addressed | Contents::Binary => "application/octet-stream",
            Contents::Json => "application/json",
        }
    }

    /// Whether the original Nixery wrote the entry.
    #[must_use]
    pub const fn is_legacy(&self) -> bool {
        matches!(self.name, Name::Sha1(_))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

fn sha1_from_hex(name: &str) -> Option<[u8; SHA1_BYTES]> {
    // Only lower case: otherwise one object could be listed under two names.
    let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if name.len() != 2 * SHA1_BYTES || !name.bytes().all(is_hex) {
        return None;
    }
    let mut bytes = [0; SHA1_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const SHA1: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    const ENTRIES: Folder = Folder::new("builds", Contents::Json).with_sha1_names();
    const GRAPHS: Folder = Folder::new("graphs", Contents::Binary);

    #[rstest]
    #[case(BLOBS, "layers", "application/octet-stream")]
    #[case(ENTRIES, "builds", "application/json")]
    #[case(GRAPHS, "graphs", "application/octet-stream")]
    fn a_key_prints_and_parses(
        #[case] folder: Folder,
        #[case] name: &str,
        #[case] content_type: &str,
    ) {
        let key = Key::new(folder, Digest::of(b""));
        assert_eq!(key.path(), format!("{name}/{SHA256}"));
        assert_eq!(key.to_string(), key.path());
        assert_eq!(key.content_type(), content_type);
        assert_eq!(key.digest(), Some(Digest::of(b"")));
        assert_eq!(Key::from_name(folder, SHA256), Some(key));
        assert!(!key.is_legacy());
    }

    #[test]
    fn the_originals_entries_are_keys() {
        let key = Key::from_name(ENTRIES, SHA1).expect("a legacy key");
        assert!(key.is_legacy());
        assert_eq!((key.folder(), key.digest()), (ENTRIES, None));
        assert_eq!(key.path(), format!("builds/{SHA1}"));
    }

    #[rstest]
    #[case::empty("")]
    #[case::upper_case("DA39A3EE5E6B4B0D3255BFEF95601890AFD80709")]
    #[case::not_hex("xx39a3ee5e6b4b0d3255bfef95601890afd80709")]
    #[case::a_sign("+a39a3ee5e6b4b0d3255bfef95601890afd80709")]
    #[case::not_ascii("ä39a3ee5e6b4b0d3255bfef95601890afd80709")]
    #[case::way_out("../manifests/x")]
    #[case::leading_slash("/x")]
    #[case::algorithm("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    fn foreign_names_are_not_keys(#[case] name: &str) {
        assert_eq!(Key::from_name(ENTRIES, name), None);
    }

    #[test]
    fn sha1_names_are_foreign_in_other_folders() {
        assert_eq!(Key::from_name(BLOBS, SHA1), None);
        assert_eq!(Key::from_name(GRAPHS, SHA1), None);
    }

    #[test]
    fn keys_are_cheap_to_copy() {
        assert!(size_of::<Key>() <= 64);
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_the_same(name in "[0-9a-f]{38,66}|.*") {
            if let Some(key) = Key::from_name(ENTRIES, &name) {
                prop_assert_eq!(key.name(), name);
            }
        }
    }
}
