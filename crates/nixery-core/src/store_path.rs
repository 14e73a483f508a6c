//! Nix store paths and the parts of their names.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base32;

/// Characters of the hash at the start of a store path's base name (160 bits in base 32).
pub const HASH_LEN: usize = 32;

/// The most bytes a store path's name (without hash) may have; Nix's `StorePath::MaxPathLen`.
pub(crate) const MAX_NAME_LEN: usize = 211;

/// Whether a name may have each byte.
const NAME_CHARACTERS: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 128u8 {
        allowed[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_' | b'?' | b'=');
        byte += 1;
    }
    allowed
};

/// A valid store path such as `/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-glibc-2.38`.
///
/// Any absolute store directory is accepted, since Nix can be built for another one; the base name
/// follows the rules of Nix (store path specification: 32 characters of Nix base 32, a dash, 1 to
/// 211 characters of `A-Za-z0-9+-._?=`, neither `.` nor `..` nor one of these followed by a dash).
/// Ordered by the full path, bytewise. Cloning is cheap. The paths of a reference graph share one
/// allocation.
///
/// ```
/// use nixery_core::StorePath;
/// let path = StorePath::parse("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-glibc-locales-2.38").unwrap();
/// assert_eq!(path.name(), "glibc-locales-2.38");
/// assert_eq!(path.package_name(), "glibc-locales");
/// ```
#[derive(Clone)]
pub struct StorePath {
    /// The path, possibly with other paths around it.
    text: Arc<str>,
    start: u32,
    end: u32,
    /// The place of its base name.
    base: u32,
}

/// Why a text is not a store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a store path: {rule}")]
#[non_exhaustive]
pub struct StorePathError {
    /// The text as given, cut to 300 characters.
    pub path: String,
    /// The rule it breaks.
    pub rule: StorePathRule,
}

impl StorePathError {
    pub(crate) fn new(path: &str, rule: StorePathRule) -> Self {
        Self {
            path: path.chars().take(300).collect(),
            rule,
        }
    }
}

/// The rules of store paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
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
    /// The path, or all paths that are read together, are shorter than 4 GiB.
    #[error("the paths are longer than 4 GiB together")]
    TotalLength,
    /// `.` and `..`, also before a dash, are refused.
    #[error("the name must not be '.' or '..', nor start with one of them and a dash")]
    NameDots,
}

impl StorePath {
    /// Parses an absolute store path.
    ///
    /// # Errors
    /// The text breaks a rule: the error has the first.
    pub fn parse(path: &str) -> Result<Self, StorePathError> {
        let mut paths = StorePaths::default();
        paths.push(path)?;
        let path = paths.finish().next();
        Ok(path.expect("one path was added"))
    }

    /// The whole path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text[self.start as usize..self.end as usize]
    }

    /// The text that this path is part of, the same for all paths that were made together.
    pub(crate) fn shared_text(&self) -> &str {
        &self.text
    }

    /// Where in [`Self::shared_text`] this path is.
    pub(crate) fn place(&self) -> Range<u32> {
        self.start..self.end
    }

    /// The store directory, without a slash at its end; empty where the store is `/` itself.
    #[must_use]
    pub fn store_dir(&self) -> &str {
        &self.text[self.start as usize..self.base as usize - 1]
    }

    /// The last component: hash, dash and name.
    #[must_use]
    pub fn base_name(&self) -> &str {
        &self.text[self.base as usize..self.end as usize]
    }

    /// The 32 characters of the hash.
    #[must_use]
    pub fn hash_part(&self) -> &str {
        &self.base_name()[..HASH_LEN]
    }

    /// The name without the hash, `glibc-2.38-bin`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.base_name()[HASH_LEN + 1..]
    }

    /// The name without hash and version, `glibc`, split as Nix's `builtins.parseDrvName` does: the
    /// version starts after the first dash that is followed by something other than a letter.
    #[must_use]
    pub fn package_name(&self) -> &str {
        package_name(self.name())
    }
}

/// Collects checked paths in one allocation. A graph has many, and an allocation for each would
/// take longer than the check.
#[derive(Debug, Default)]
pub(crate) struct StorePaths {
    text: String,
    /// Where each path starts, and its base name, and where it ends.
    places: Vec<[u32; 3]>,
}

impl StorePaths {
    /// Makes room for a number of paths with a total number of bytes.
    pub(crate) fn with_capacity(paths: usize, bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            places: Vec::with_capacity(paths),
        }
    }

    /// Checks a path and adds it.
    ///
    /// # Errors
    /// As [`StorePath::parse`]; also where the paths make 4 GiB of text.
    pub(crate) fn push(&mut self, path: &str) -> Result<(), StorePathError> {
        let refused = |rule| StorePathError::new(path, rule);
        let base = check(path).map_err(refused)?;
        let start = self.text.len();
        let Ok(end) = u32::try_from(start + path.len()) else {
            return Err(refused(StorePathRule::TotalLength));
        };
        // The start is below the end, which fits.
        self.places.push([start as u32, (start + base) as u32, end]);
        self.text.push_str(path);
        Ok(())
    }

    /// The paths in the order in which they were added.
    pub(crate) fn finish(self) -> impl Iterator<Item = StorePath> {
        let text: Arc<str> = self.text.into();
        self.places
            .into_iter()
            .map(move |[start, base, end]| StorePath {
                text: Arc::clone(&text),
                start,
                end,
                base,
            })
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

/// Checks a store path and returns its last component.
///
/// # Errors
/// As [`StorePath::parse`].
pub(crate) fn base_name_of(path: &str) -> Result<&str, StorePathError> {
    let base = check(path).map_err(|rule| StorePathError::new(path, rule))?;
    Ok(&path[base..])
}

/// Checks the rules. Returns the offset of the base name.
fn check(path: &str) -> Result<usize, StorePathRule> {
    if !path.starts_with('/') {
        return Err(StorePathRule::Absolute);
    }
    let base = path.rfind('/').map_or(0, |slash| slash + 1);
    let directory = &path[..base - 1];
    let plain = |c: &str| !matches!(c, "" | "." | "..") && !c.chars().any(char::is_control);
    // Nearly all paths are in Nix's own store.
    let known = directory == "/nix/store" || directory.is_empty();
    if !known && !directory[1..].split('/').all(plain) {
        return Err(StorePathRule::Directory);
    }
    check_base_name(&path[base..])?;
    Ok(base)
}

/// Checks a `<hash>-<name>`. References in narinfo files and newer path-info JSON have this form.
pub(crate) fn check_base_name(base_name: &str) -> Result<(), StorePathRule> {
    let bytes = base_name.as_bytes();
    if bytes.get(HASH_LEN) != Some(&b'-')
        || !bytes[..HASH_LEN]
            .iter()
            .all(|&b| base32::VALUES[b as usize] != base32::NO_DIGIT)
    {
        return Err(StorePathRule::Hash);
    }
    let name = &bytes[HASH_LEN + 1..];
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(StorePathRule::NameLength);
    }
    if !name.iter().all(|&b| NAME_CHARACTERS[b as usize]) {
        return Err(StorePathRule::NameCharacter);
    }
    if name[0] == b'.' && matches!(name.split(|&b| b == b'-').next(), Some(b"." | b"..")) {
        return Err(StorePathRule::NameDots);
    }
    Ok(())
}

/// Whether a text has the length and the characters of a store path's name.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |&byte: &u8| NAME_CHARACTERS[byte as usize];
    (1..=MAX_NAME_LEN).contains(&text.len()) && text.as_bytes().iter().all(allowed)
}

impl PartialEq for StorePath {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for StorePath {}

impl PartialOrd for StorePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for StorePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for StorePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl AsRef<str> for StorePath {
    fn as_ref(&self) -> &str {
        self.as_str()
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
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for StorePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
