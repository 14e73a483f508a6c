//! The rules of a policy: the users that they are for, and what they match.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use nixery_core::{Architecture, ImageName, Tag};

use super::Denial;
use super::pattern::{Glob, PackagePattern};
use crate::Identity;

/// Who sends a request, with the groups that the policy has the user in.
#[derive(Clone, Copy)]
pub(super) struct Requester<'a> {
    pub(super) identity: &'a Identity,
    pub(super) groups: Option<&'a BTreeSet<String>>,
}

/// An image that is requested at one tag, or at any tag.
#[derive(Clone, Copy)]
pub(super) struct RequestedImage<'a> {
    pub(super) name: &'a ImageName,
    /// `None` stands for the tag that the rules treat best.
    pub(super) tag: Option<&'a Tag>,
    pub(super) source: &'a str,
}

/// The users and requests that a rule is for.
#[derive(Debug, Clone, Default)]
pub(super) struct Who {
    pub(super) anonymous: bool,
    /// Every user who has logged in.
    pub(super) all_users: bool,
    pub(super) users: BTreeSet<String>,
    pub(super) groups: BTreeSet<String>,
}

impl Who {
    pub(super) fn includes(&self, requester: Requester<'_>) -> bool {
        let Some(name) = requester.identity.name() else {
            return self.anonymous;
        };
        let in_group = |group| {
            requester.identity.groups().contains(group)
                || requester
                    .groups
                    .is_some_and(|groups| groups.contains(group))
        };
        self.all_users || self.users.contains(name) || self.groups.iter().any(in_group)
    }
}

/// What a rule matches; `None` matches everything, an empty list nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    pub(super) packages: Option<Vec<PackagePattern>>,
    pub(super) sources: Option<Vec<Glob>>,
    pub(super) platforms: Option<Vec<Architecture>>,
    pub(super) tags: Option<Vec<Glob>>,
}

/// A condition of a rule, in the order in which they are examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    Package,
    Source,
    Platform,
    Tag,
}

impl Condition {
    /// Returns the denial of a package of an image for which this condition decides.
    pub(super) fn denial(self, package: &str, image: &RequestedImage<'_>) -> Denial {
        match self {
            Self::Package => Denial::Package(package.to_owned()),
            Self::Source => Denial::Source,
            Self::Platform => Denial::Platform(format!("linux/{}", image.name.architecture())),
            Self::Tag => Denial::Tag(image.tag.map_or_else(|| "*".to_owned(), Tag::to_string)),
        }
    }
}

/// What an allow rule says about builds, from the least right to the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Builds {
    Forbidden,
    PerHour(NonZeroU32),
    Unlimited,
}

/// A rule of `[[allow]]`.
#[derive(Debug, Clone)]
pub(super) struct AllowRule {
    pub(super) who: Who,
    pub(super) conditions: Conditions,
    /// Whether tags that are commits match without being listed.
    pub(super) commits: bool,
    pub(super) builds: Builds,
}

/// A rule of `[[deny]]`.
#[derive(Debug, Clone)]
pub(super) struct DenyRule {
    pub(super) who: Who,
    pub(super) conditions: Conditions,
}

impl AllowRule {
    /// Returns the first condition that does not match a package of an image, as an error.
    pub(super) fn check(&self, package: &str, image: &RequestedImage<'_>) -> Result<(), Condition> {
        let conditions = &self.conditions;
        let matches_package = |pattern: &PackagePattern| pattern.matches(package);
        if !any(&conditions.packages, matches_package) {
            Err(Condition::Package)
        } else if !conditions.match_source(image) {
            Err(Condition::Source)
        } else if !conditions.match_platform(image) {
            Err(Condition::Platform)
        } else if !self.matches_tag(image) {
            Err(Condition::Tag)
        } else {
            Ok(())
        }
    }

    /// A commit may be one of a branch that the patterns do not match, so that it must be allowed
    /// by itself.
    fn matches_tag(&self, image: &RequestedImage<'_>) -> bool {
        let Some(tag) = image.tag else {
            return self.commits || any(&self.conditions.tags, |_| true);
        };
        if tag.commit().is_none() {
            return any(&self.conditions.tags, |pattern| {
                pattern.matches(tag.as_str())
            });
        }
        self.commits
            || any(&self.conditions.tags, |pattern| {
                pattern.is_exactly(tag.as_str())
            })
    }

    /// Whether it matches every package of every image.
    pub(super) fn matches_everything(&self) -> bool {
        let Conditions {
            packages,
            sources,
            platforms,
            tags,
        } = &self.conditions;
        any(packages, |pattern| *pattern == PackagePattern::Everything)
            && any(sources, Glob::matches_everything)
            && any(tags, Glob::matches_everything)
            && self.commits
            && platforms.as_ref().is_none_or(|listed| {
                Architecture::ALL
                    .iter()
                    .all(|platform| listed.contains(platform))
            })
    }
}

impl DenyRule {
    /// Returns a denial if every condition matches an image with these packages.
    pub(super) fn check(&self, packages: &[&str], image: &RequestedImage<'_>) -> Option<Denial> {
        let conditions = &self.conditions;
        // The commits of a denied branch are not known here, so that every commit may be one.
        let matches_tag = |pattern: &Glob| match image.tag {
            Some(tag) => tag.commit().is_some() || pattern.matches(tag.as_str()),
            None => pattern.matches_everything(),
        };
        let is_denied =
            |package: &str| any(&conditions.packages, |pattern| pattern.is_within(package));
        let package = packages.iter().find(|package| is_denied(package))?;
        let matches = conditions.match_source(image)
            && conditions.match_platform(image)
            && any(&conditions.tags, matches_tag);
        let given = [
            (conditions.packages.is_some(), Condition::Package),
            (conditions.tags.is_some(), Condition::Tag),
            (conditions.platforms.is_some(), Condition::Platform),
            (conditions.sources.is_some(), Condition::Source),
        ];
        matches.then(|| {
            let reported = given.into_iter().find(|(given, _)| *given);
            reported.map_or(Denial::Registry, |(_, condition)| {
                condition.denial(package, image)
            })
        })
    }
}

impl Conditions {
    fn match_source(&self, image: &RequestedImage<'_>) -> bool {
        any(&self.sources, |pattern| pattern.matches(image.source))
    }

    fn match_platform(&self, image: &RequestedImage<'_>) -> bool {
        any(&self.platforms, |platform| {
            *platform == image.name.architecture()
        })
    }
}

/// Whether an item of a condition matches. A condition that is not given always does.
fn any<T>(condition: &Option<Vec<T>>, matches: impl Fn(&T) -> bool) -> bool {
    condition
        .as_ref()
        .is_none_or(|items| items.iter().any(matches))
}
