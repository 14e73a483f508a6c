//! What a tag selects: a package source, or a version that is asserted of a package.

use std::fmt;
use std::str::FromStr;

use crate::asserted_version::AssertedVersion;
use crate::source::{PackageSource, SourceError};
use crate::tag::Tag;

/// What the names of channels begin with, which a tag may leave out.
const PREFIXES: [&str; 2] = ["nixos-", "nixpkgs-"];

/// The channels that tags may select besides the configured one.
///
/// ```
/// use nixery_core::Channels;
///
/// let channels: Channels = "nixos-25.11, nixpkgs-unstable".parse()?;
/// assert_eq!(channels.to_string(), "nixos-25.11 nixpkgs-unstable");
/// # Ok::<(), nixery_core::ChannelsError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Channels(Vec<String>);

impl Channels {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Names are separated by commas or white space. An empty text is an empty list.
impl FromStr for Channels {
    type Err = ChannelsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(|c: char| c == ',' || c.is_whitespace());
        let mut valid: Vec<String> = Vec::new();
        for name in names.filter(|name| !name.is_empty()) {
            PackageSource::channel(name)?;
            match Tag::parse(name) {
                Ok(tag) if !tag.is_latest() => {}
                _ => {
                    return Err(ChannelsError::Tag {
                        name: name.to_owned(),
                    });
                }
            }
            if !valid.iter().any(|known| known == name) {
                valid.push(name.to_owned());
            }
        }
        Ok(Self(valid))
    }
}

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// Why a text is not a list of channels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelsError {
    /// A name is not one of a channel.
    #[error(transparent)]
    Channel(#[from] SourceError),
    /// A name cannot be a tag, or is `latest`.
    #[error("channel `{name}` cannot be selected by a tag: use a name such as nixos-26.05")]
    Tag {
        /// The name.
        name: String,
    },
}

/// What a tag selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagSelection {
    /// This package source, at this tag.
    Source(PackageSource),
    /// The package source as it is by default, in which the first package of the name has this
    /// version.
    Version(AssertedVersion),
    /// A branch or tag of the git repository, or, if it has none of this name, the version of a
    /// package at its default branch.
    RefOrVersion(AssertedVersion),
    /// Nothing: the source has no such tag.
    Nothing,
}

impl PackageSource {
    /// Returns what a tag selects of this source, and of `channels` if it is a channel.
    ///
    /// The name of a channel may leave out `nixos-` or `nixpkgs-` where that is unambiguous. A
    /// channel wins over a version.
    ///
    /// ```
    /// use nixery_core::{Channels, PackageSource, TagSelection};
    ///
    /// let source = PackageSource::channel("nixos-26.05")?;
    /// let channels: Channels = "nixos-unstable".parse()?;
    /// let unstable = PackageSource::channel("nixos-unstable")?;
    /// assert_eq!(
    ///     source.select(&"unstable".parse()?, &channels),
    ///     TagSelection::Source(unstable)
    /// );
    /// assert_eq!(source.select(&"nonsense".parse()?, &channels), TagSelection::Nothing);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn select(&self, tag: &Tag, channels: &Channels) -> TagSelection {
        if tag.is_latest() {
            return TagSelection::Source(self.clone());
        }
        let version = AssertedVersion::of(tag);
        match (self, version) {
            (Self::Git { .. }, Some(version)) => TagSelection::RefOrVersion(version),
            (Self::Git { .. }, None) => TagSelection::Source(self.clone()),
            (Self::Channel(own), version) => match (channel_of(own, channels, tag), version) {
                (Some(name), _) => TagSelection::Source(Self::Channel(name.to_owned())),
                (None, Some(version)) => TagSelection::Version(version),
                (None, None) => TagSelection::Nothing,
            },
            (Self::Path(_), Some(version)) => TagSelection::Version(version),
            (Self::Path(_), None) => TagSelection::Nothing,
        }
    }

    /// Returns the names that tags may have for every image of this source, if it is no git
    /// repository: `latest`, then the names of channels.
    pub fn fixed_tags(&self, channels: &Channels) -> Vec<Tag> {
        let mut tags = vec![Tag::latest()];
        if let Self::Channel(own) = self {
            let names = std::iter::once(own).chain(&channels.0);
            for name in names.filter_map(|name| Tag::parse(name).ok()) {
                if !tags.contains(&name) {
                    tags.push(name);
                }
            }
        }
        tags
    }
}

/// Returns the channel that a tag names: in full, or as the only one without its prefix.
fn channel_of<'a>(own: &'a String, channels: &'a Channels, tag: &Tag) -> Option<&'a str> {
    let names = || std::iter::once(own).chain(&channels.0).map(String::as_str);
    if let Some(name) = names().find(|name| *name == tag.as_str()) {
        return Some(name);
    }
    let is_short = |name: &&str| {
        let mut prefixes = PREFIXES.iter();
        prefixes.any(|prefix| name.strip_prefix(prefix) == Some(tag.as_str()))
    };
    let first = names().find(is_short)?;
    names()
        .filter(is_short)
        .all(|name| name == first)
        .then_some(first)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn tag(text: &str) -> Tag {
        Tag::parse(text).expect("the tag is legal")
    }

    fn channel(name: &str) -> PackageSource {
        PackageSource::channel(name).expect("a channel")
    }

    #[rstest]
    #[case("latest", Some("nixos-26.05"))]
    #[case("nixos-26.05", Some("nixos-26.05"))]
    #[case("26.05", Some("nixos-26.05"))]
    #[case("nixos-25.11", Some("nixos-25.11"))]
    #[case("25.11", Some("nixos-25.11"))]
    #[case("25.11-small", Some("nixos-25.11-small"))]
    #[case::ambiguous("unstable", None)]
    #[case("nixos-unstable", Some("nixos-unstable"))]
    #[case("nixpkgs-unstable", Some("nixpkgs-unstable"))]
    #[case("nixos-24.05", None)]
    #[case("NIXOS-25.11", None)]
    #[case("nonsense", None)]
    #[case(COMMIT, None)]
    fn tags_name_allowed_channels(#[case] text: &str, #[case] selected: Option<&str>) {
        let channels = "nixos-25.11,nixos-25.11-small nixos-unstable nixpkgs-unstable";
        let channels = channels.parse().expect("channels");
        let found = channel("nixos-26.05").select(&tag(text), &channels);
        let expected = selected.map_or(TagSelection::Nothing, |name| {
            TagSelection::Source(channel(name))
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_source_at_a_commit_has_it_as_a_tag() {
        let source = channel(COMMIT);
        let found = source.select(&tag(COMMIT), &Channels::default());
        assert_eq!(found, TagSelection::Source(source));
    }

    #[test]
    fn each_kind_of_source_has_its_versions() {
        let version = || AssertedVersion::of(&tag("2.39")).expect("a version");
        let git = PackageSource::git("https://example.org/pkgs").expect("an address");
        let path = PackageSource::path("/srv/pkgs").expect("a path");
        let none = Channels::default();
        for (source, at, expected) in [
            (&git, "2.39", TagSelection::RefOrVersion(version())),
            (&git, "main", TagSelection::Source(git.clone())),
            (&git, COMMIT, TagSelection::Source(git.clone())),
            (&path, "2.39", TagSelection::Version(version())),
            (&path, "main", TagSelection::Nothing),
            (&path, "latest", TagSelection::Source(path.clone())),
            (
                &channel("nixos-26.05"),
                "2.39",
                TagSelection::Version(version()),
            ),
        ] {
            assert_eq!(source.select(&tag(at), &none), expected, "{source} {at}");
        }
    }

    #[test]
    fn channels_are_tags_of_every_image() {
        let channels = "nixos-25.11 nixos-26.05".parse().expect("channels");
        let tags = |source: PackageSource| source.fixed_tags(&channels);
        assert_eq!(
            tags(channel("nixos-26.05")),
            ["latest", "nixos-26.05", "nixos-25.11"].map(tag)
        );
        let path = PackageSource::path("/srv/pkgs").expect("a path");
        assert_eq!(tags(path), [Tag::latest()]);
        assert_eq!(
            tags(channel("a/b")),
            ["latest", "nixos-25.11", "nixos-26.05"].map(tag)
        );
    }

    #[rstest]
    #[case("", Some(""))]
    #[case(" nixos-25.11,\nnixos-25.11 unstable ", Some("nixos-25.11 unstable"))]
    #[case("nixos 25.11/x", None)]
    #[case("../x", None)]
    #[case("latest", None)]
    #[case("a+b", None)]
    fn lists_of_channels(#[case] text: &str, #[case] parsed: Option<&str>) {
        let found = text
            .parse::<Channels>()
            .map(|channels| channels.to_string());
        assert_eq!(found.ok().as_deref(), parsed);
    }
}
