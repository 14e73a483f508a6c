//! Nix store paths: parsing, and the parts a name is made of.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::nar_hash::{NarHash, NarHashError};

/// Characters of the hash at the start of a store path's base name (160 bits in base 32).
pub const HASH_LEN: usize = 32;

/// The most bytes a store path's name (without hash) may have; Nix's `StorePath::MaxPathLen`.
pub const MAX_NAME_LEN: usize = 211;

/// Nix's base 32 alphabet: digits and lower-case letters without `e`, `o`, `t` and `u`.
pub(crate) const BASE32_ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The value of each byte as a digit of Nix base 32; [`NO_DIGIT`] where it is none.
const BASE32_VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < BASE32_ALPHABET.len() {
        values[BASE32_ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
};
const NO_DIGIT: u8 = u8::MAX;

/// The value of a digit of Nix base 32.
pub(crate) fn base32_value(digit: u8) -> Option<u8> {
    let value = BASE32_VALUES[digit as usize];
    (value != NO_DIGIT).then_some(value)
}

/// A valid store path such as `/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-glibc-2.38`.
///
/// Any absolute store directory is accepted, since Nix can be built for another one; the base name follows
/// the rules of Nix (store path specification: 32 characters of Nix base 32, a dash, 1 to 211 characters of
/// `A-Za-z0-9+-._?=`, neither `.` nor `..` nor one of these followed by a dash). Ordered by the full path,
/// bytewise. Cloning is cheap.
///
/// ```
/// use nixery_core::store_path::StorePath;
/// let path = StorePath::parse("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-glibc-locales-2.38").unwrap();
/// assert_eq!(path.name(), "glibc-locales-2.38");
/// assert_eq!(path.package_name(), "glibc-locales");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    full: Arc<str>,
    /// Where the base name starts; it follows from `full`, so comparing it changes nothing.
    base: usize,
}

/// Why a text is not a store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a store path: {rule}")]
pub struct StorePathError {
    /// The text as given, cut to 300 characters.
    pub path: String,
    /// The rule it breaks.
    pub rule: StorePathRule,
}

/// The rules a store path keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StorePathRule {
    /// It starts with `/`.
    #[error("it must be absolute, such as /nix/store/<hash>-<name>")]
    Absolute,
    /// The directory has no empty, `.` or `..` component and no control character.
    #[error("its directory must be plain: no empty, '.' or '..' component, no control character")]
    Directory,
    /// 32 characters of Nix base 32 and a dash come before the name.
    #[error("the last component must start with 32 characters of Nix base 32 and a dash")]
    Hash,
    /// The name has 1 to 211 characters.
    #[error("the name after the hash must have 1 to 211 characters")]
    NameLength,
    /// Only certain characters are allowed in names.
    #[error("the name may hold only letters, digits and any of + - . _ ? =")]
    NameCharacter,
    /// `.` and `..`, also before a dash, are refused.
    #[error("the name must not be '.' or '..', nor start with one of them and a dash")]
    NameDots,
}

impl StorePath {
    /// Parses an absolute store path.
    ///
    /// # Errors
    /// The text and the first rule it breaks.
    pub fn parse(path: &str) -> Result<Self, StorePathError> {
        match check(path) {
            Ok(base) => Ok(Self {
                full: path.into(),
                base,
            }),
            Err(rule) => Err(StorePathError {
                path: path.chars().take(300).collect(),
                rule,
            }),
        }
    }

    /// The whole path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The store directory, without a slash at its end; empty where the store is `/` itself.
    #[must_use]
    pub fn store_dir(&self) -> &str {
        &self.full[..self.base - 1]
    }

    /// The last component: hash, dash and name.
    #[must_use]
    pub fn base_name(&self) -> &str {
        &self.full[self.base..]
    }

    /// The 32 characters of the hash.
    #[must_use]
    pub fn hash_part(&self) -> &str {
        &self.full[self.base..self.base + HASH_LEN]
    }

    /// The name without the hash, `glibc-2.38-bin`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.full[self.base + HASH_LEN + 1..]
    }

    /// The name without hash and version, `glibc`, split as Nix's `builtins.parseDrvName` does: the version
    /// starts after the first dash that is followed by something other than a letter.
    #[must_use]
    pub fn package_name(&self) -> &str {
        package_name(self.name())
    }
}

/// The part of a name before its version, as Nix's `builtins.parseDrvName` splits it.
#[must_use]
pub fn package_name(name: &str) -> &str {
    let version = name
        .as_bytes()
        .windows(2)
        .position(|w| w[0] == b'-' && !w[1].is_ascii_alphabetic());
    version.map_or(name, |dash| &name[..dash])
}

/// Checks the rules; gives the offset of the base name.
fn check(path: &str) -> Result<usize, StorePathRule> {
    if !path.starts_with('/') {
        return Err(StorePathRule::Absolute);
    }
    let base = path.rfind('/').map_or(0, |slash| slash + 1);
    let directory = &path[..base - 1];
    let plain = |c: &str| !matches!(c, "" | "." | "..") && !c.chars().any(char::is_control);
    if !directory.is_empty() && !directory[1..].split('/').all(plain) {
        return Err(StorePathRule::Directory);
    }
    check_base_name(&path[base..])?;
    Ok(base)
}

/// Checks a `<hash>-<name>`, such as narinfo files and newer path-info JSON have as references.
pub(crate) fn check_base_name(base_name: &str) -> Result<(), StorePathRule> {
    let bytes = base_name.as_bytes();
    if bytes.get(HASH_LEN) != Some(&b'-')
        || !bytes[..HASH_LEN].iter().all(|&b| base32_value(b).is_some())
    {
        return Err(StorePathRule::Hash);
    }
    let name = &bytes[HASH_LEN + 1..];
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(StorePathRule::NameLength);
    }
    if !name.iter().all(is_name_byte) {
        return Err(StorePathRule::NameCharacter);
    }
    let dots = name.split(|&b| b == b'-').next().unwrap_or_default();
    if matches!(dots, b"." | b"..") {
        return Err(StorePathRule::NameDots);
    }
    Ok(())
}

/// Whether a name may have this byte.
fn is_name_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte)
}

/// Whether a text has the length and the characters of a store path's name.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&text.len()) && text.as_bytes().iter().all(is_name_byte)
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.full, f)
    }
}

impl AsRef<str> for StorePath {
    fn as_ref(&self) -> &str {
        &self.full
    }
}

impl AsRef<std::path::Path> for StorePath {
    fn as_ref(&self) -> &std::path::Path {
        std::path::Path::new(&*self.full)
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        Self::parse(path)
    }
}

impl Serialize for StorePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.full)
    }
}

impl<'de> Deserialize<'de> for StorePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const HASH: &str = "3n58xw4373jp0ljirf06d8077j15pc4j";

    #[rstest]
    #[case("/nix/store/{}-glibc-2.38", "/nix/store", "glibc-2.38", "glibc")]
    #[case(
        "/nix/store/{}-glibc-2.38-bin",
        "/nix/store",
        "glibc-2.38-bin",
        "glibc"
    )]
    #[case(
        "/nix/store/{}-nss-cacert-3.98",
        "/nix/store",
        "nss-cacert-3.98",
        "nss-cacert"
    )]
    #[case(
        "/nix/store/{}-python3.11-numpy-1.26.4",
        "/nix/store",
        "python3.11-numpy-1.26.4",
        "python3.11-numpy"
    )]
    #[case(
        "/nix/store/{}-gcc-13-20230520",
        "/nix/store",
        "gcc-13-20230520",
        "gcc"
    )]
    #[case("/nix/store/{}-trailing-", "/nix/store", "trailing-", "trailing-")]
    #[case("/nix/store/{}-a--b", "/nix/store", "a--b", "a")]
    #[case("/home/me/store/{}-x", "/home/me/store", "x", "x")]
    #[case("/{}-x", "", "x", "x")]
    #[case("/nix/store/{}-.hidden", "/nix/store", ".hidden", ".hidden")]
    fn parts(#[case] text: &str, #[case] dir: &str, #[case] name: &str, #[case] package: &str) {
        let text = text.replace("{}", HASH);
        let path = StorePath::parse(&text).unwrap();
        assert_eq!(
            (
                path.as_str(),
                path.store_dir(),
                path.hash_part(),
                path.name(),
                path.package_name()
            ),
            (&*text, dir, HASH, name, package)
        );
        assert_eq!(path.base_name(), format!("{HASH}-{name}"));
        assert_eq!(
            serde_json::from_str::<StorePath>(&serde_json::to_string(&path).unwrap()).unwrap(),
            path
        );
    }

    #[rstest]
    #[case("", StorePathRule::Absolute)]
    #[case("nix/store/{}-x", StorePathRule::Absolute)]
    #[case("/nix//store/{}-x", StorePathRule::Directory)]
    #[case("/nix/../store/{}-x", StorePathRule::Directory)]
    #[case("/nix/st\nore/{}-x", StorePathRule::Directory)]
    #[case("/nix/store", StorePathRule::Hash)]
    #[case("/nix/store/", StorePathRule::Hash)]
    #[case("/nix/store/{}", StorePathRule::Hash)]
    #[case("/nix/store/{}x", StorePathRule::Hash)]
    #[case("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4e-x", StorePathRule::Hash)]
    #[case("/nix/store/3N58xw4373jp0ljirf06d8077j15pc4j-x", StorePathRule::Hash)]
    #[case("/nix/store/ééééééééééééééééé-x", StorePathRule::Hash)]
    #[case("/nix/store/{}-", StorePathRule::NameLength)]
    #[case("/nix/store/{}-a b", StorePathRule::NameCharacter)]
    #[case("/nix/store/{}-a~b", StorePathRule::NameCharacter)]
    #[case("/nix/store/{}-ä", StorePathRule::NameCharacter)]
    #[case("/nix/store/{}-.", StorePathRule::NameDots)]
    #[case("/nix/store/{}-..", StorePathRule::NameDots)]
    #[case("/nix/store/{}-..-x", StorePathRule::NameDots)]
    #[case("/nix/store/{}-x/bin", StorePathRule::Hash)]
    fn refused(#[case] text: &str, #[case] rule: StorePathRule) {
        let text = text.replace("{}", HASH);
        assert_eq!(
            StorePath::parse(&text),
            Err(StorePathError { path: text, rule })
        );
    }

    #[test]
    fn name_length_is_bounded() {
        let path = |n: usize| format!("/nix/store/{HASH}-{}", "x".repeat(n));
        assert!(StorePath::parse(&path(MAX_NAME_LEN)).is_ok());
        assert_eq!(
            StorePath::parse(&path(MAX_NAME_LEN + 1)).unwrap_err().rule,
            StorePathRule::NameLength
        );
        let error = StorePath::parse(&"x".repeat(10_000)).unwrap_err();
        assert_eq!(error.path.len(), 300);
    }

    #[test]
    fn order_is_that_of_the_text() {
        let parse = |text: &str| StorePath::parse(&text.replace("{}", HASH)).unwrap();
        let mut paths = [
            parse("/nix/store/{}-b"),
            parse("/a/b/c/{}-a"),
            parse("/nix/store/{}-a"),
            parse("/{}-z"),
        ];
        paths.sort();
        let mut texts: Vec<String> = paths.iter().map(ToString::to_string).collect();
        texts.sort();
        assert_eq!(
            texts,
            paths.iter().map(ToString::to_string).collect::<Vec<_>>()
        );
    }

    proptest! {
        #[test]
        fn never_panics_and_round_trips(text in "(/[a-z.]{0,3}){0,3}/?[0-9a-z]{30,33}-?[-a-z.0-9/ é]{0,6}|.{0,50}") {
            if let Ok(path) = StorePath::parse(&text) {
                prop_assert_eq!(path.as_str(), &text);
                prop_assert_eq!(format!("{}/{}-{}", path.store_dir(), path.hash_part(), path.name()), text);
                prop_assert!(path.name().starts_with(path.package_name()));
            }
        }
    }
}
