//! Which images a user may pull, and start builds of.

mod file;
mod pattern;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use nixery_core::{ImageName, MetaPackage, Tag};

use crate::{FileErrors, Identity};
use rules::{AllowRule, Builds, Condition, DenyRule, RequestedImage, Requester};

/// Rules that say which images a user may pull, and start builds of.
///
/// A user may pull an image if no deny rule for the user matches it, and if for each package that
/// the name lists an allow rule for the user matches. The order of rules has no effect. Without
/// rules nothing is allowed. `docs/access.md` describes the format of the file.
///
/// ```
/// use nixery_access::{Identity, Policy, PolicyRequest};
///
/// let policy = Policy::parse(
///     r#"
///     [[allow]]
///     who = ["ci"]
///     packages = ["git", "python3packages.*"]
///     "#,
/// )?;
/// let name = "git/python3packages.numpy".parse()?;
/// let request = PolicyRequest { name: &name, tag: &"latest".parse()?, source: "nixpkgs nixos-26.05" };
/// assert!(policy.decide(&Identity::user("ci"), &request)?.may_build);
/// assert!(policy.decide(&Identity::anonymous(), &request).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The groups that the policy has each user in.
    groups: BTreeMap<String, BTreeSet<String>>,
    allow: Vec<AllowRule>,
    deny: Vec<DenyRule>,
}

/// An image that is requested.
#[derive(Debug, Clone, Copy)]
pub struct PolicyRequest<'a> {
    /// The name of the image.
    pub name: &'a ImageName,
    /// The tag, which selects a commit of a git source.
    pub tag: &'a Tag,
    /// The package source, as [`PackageSource`](nixery_core::PackageSource) displays it.
    pub source: &'a str,
}

/// What a user may do with an image that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Whether a request may start a build of the image. Otherwise only an image that is built
    /// may be pulled.
    pub may_build: bool,
    /// How many builds the user may start in an hour; `None` if there is no limit.
    pub builds_per_hour: Option<NonZeroU32>,
}

/// Why an image is denied. `Display` is a message for the client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    /// The token is for other repositories.
    #[error("the token does not allow pulling `{0}`. Fix: request a token for this repository")]
    Scope(String),
    /// No image at all is allowed.
    #[error(
        "you may not pull images from this registry. Fix: log in as a user who may, or ask the operator of this registry"
    )]
    Registry,
    /// A package is not allowed.
    #[error(
        "you may not pull the package `{0}`. Fix: leave it out, or ask the operator of this registry to allow it"
    )]
    Package(String),
    /// The package source is not allowed.
    #[error(
        "you may not pull images of this registry's package source. Fix: ask the operator of this registry to allow it"
    )]
    Source,
    /// The platform is not allowed.
    #[error(
        "you may not pull images for the platform `{0}`. Fix: pull another platform, or ask the operator of this registry to allow it"
    )]
    Platform(String),
    /// The tag is not allowed.
    #[error(
        "you may not pull the tag `{0}`. Fix: pull another tag, or ask the operator of this registry to allow it"
    )]
    Tag(String),
}

impl Policy {
    /// Parses a policy file.
    ///
    /// # Errors
    /// [`FileErrors`] has every problem of the file with its line. In a file that is not TOML these
    /// are the problems of syntax.
    pub fn parse(text: &str) -> Result<Self, FileErrors> {
        file::parse(text)
    }

    /// Decides whether an image may be pulled, and whether it may be built. An identity with a
    /// [scope](Identity::scope) may pull only what its scope allows as well.
    ///
    /// # Errors
    /// [`Denial`] names the part of the request that is not allowed.
    pub fn decide(
        &self,
        identity: &Identity,
        image: &PolicyRequest<'_>,
    ) -> Result<Allowance, Denial> {
        let PolicyRequest { name, tag, source } = *image;
        let tag = Some(tag);
        self.decide_image(identity, &RequestedImage { name, tag, source })
    }

    /// Decides whether a name may be pulled at some tag. It may be allowed though no tag is, if the
    /// rules allow its packages at different tags.
    ///
    /// # Errors
    /// [`Denial`] names the part of the request that is not allowed at any tag.
    pub fn decide_name(
        &self,
        identity: &Identity,
        name: &ImageName,
        source: &str,
    ) -> Result<(), Denial> {
        let tag = None;
        let image = RequestedImage { name, tag, source };
        self.decide_image(identity, &image).map(drop)
    }

    fn decide_image(
        &self,
        identity: &Identity,
        image: &RequestedImage<'_>,
    ) -> Result<Allowance, Denial> {
        let requester = self.requester(identity);
        self.check_denied(requester, image)?;
        let rules: Vec<_> = self.allow_rules(requester).collect();
        if rules.is_empty() {
            return Err(Denial::Registry);
        }
        let mut builds = Builds::Unlimited;
        for package in listed(image.name) {
            let allowed = builds_of(package, image, &rules)
                .map_err(|condition| condition.denial(package, image))?;
            builds = builds.min(allowed);
        }
        // After the policy: another token does not help against it.
        let name = image.name.as_str();
        if identity
            .scope()
            .is_some_and(|scope| !scope.allows_pull(name))
        {
            return Err(Denial::Scope(name.to_owned()));
        }
        Ok(Allowance {
            may_build: builds != Builds::Forbidden,
            builds_per_hour: match builds {
                Builds::PerHour(limit) => Some(limit),
                Builds::Forbidden | Builds::Unlimited => None,
            },
        })
    }

    /// Whether one allow rule matches every image for the identity, and no deny rule is for it.
    /// Then only a request that may start a build needs a decision: the rule may forbid or limit
    /// builds.
    #[must_use]
    pub fn allows_everything(&self, identity: &Identity) -> bool {
        let requester = self.requester(identity);
        identity.scope().is_none()
            && !self.deny.iter().any(|rule| rule.who.includes(requester))
            && self
                .allow_rules(requester)
                .any(AllowRule::matches_everything)
    }

    /// Whether an allow rule is for the identity. If not, every image is denied.
    #[must_use]
    pub fn allows_anything(&self, identity: &Identity) -> bool {
        self.allow_rules(self.requester(identity)).next().is_some()
    }

    fn requester<'a>(&'a self, identity: &'a Identity) -> Requester<'a> {
        let groups = identity.name().and_then(|name| self.groups.get(name));
        Requester { identity, groups }
    }

    fn allow_rules<'a>(
        &'a self,
        requester: Requester<'a>,
    ) -> impl Iterator<Item = &'a AllowRule> + 'a {
        let allow = self.allow.iter();
        allow.filter(move |rule| rule.who.includes(requester))
    }

    /// Checks that no deny rule matches. Of several denials the least is returned, so that the
    /// order of rules has no effect.
    fn check_denied(
        &self,
        requester: Requester<'_>,
        image: &RequestedImage<'_>,
    ) -> Result<(), Denial> {
        // Meta-packages are no packages of the image, but may be denied by their names.
        let metas = metas(image.name).map(|meta| meta.name);
        let packages = image.name.packages().iter().map(String::as_str);
        let packages: Vec<_> = packages.chain(metas).collect();
        self.deny
            .iter()
            .filter(|rule| rule.who.includes(requester))
            .filter_map(|rule| rule.check(&packages, image))
            .min()
            .map_or(Ok(()), Err)
    }
}

/// Returns the meta-packages at the start of a name.
fn metas(name: &ImageName) -> impl Iterator<Item = &'static MetaPackage> {
    name.as_str().split('/').map_while(MetaPackage::find)
}

/// Returns the components of a name that an allow rule has to match: meta-packages that add
/// packages, and packages.
fn listed(name: &ImageName) -> impl Iterator<Item = &str> {
    let adding = metas(name).filter(|meta| !meta.packages.is_empty());
    let packages = name.as_str().split('/').skip(metas(name).count());
    adding.map(|meta| meta.name).chain(packages)
}

/// Returns which builds of a package the rules allow.
///
/// # Errors
/// No rule matches. The condition is the one that failed in the rule that came closest.
fn builds_of(
    package: &str,
    image: &RequestedImage<'_>,
    rules: &[&AllowRule],
) -> Result<Builds, Condition> {
    let mut allowed = None;
    let mut failed = Condition::Package;
    for rule in rules {
        match rule.check(package, image) {
            Ok(()) => allowed = allowed.max(Some(rule.builds)),
            Err(condition) => failed = failed.max(condition),
        }
    }
    allowed.ok_or(failed)
}
