//! Versions that requests assert of packages, and how requests with different assertions share one
//! build.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use nixery_core::{AssertedVersion, ImageName, Tag};

use crate::error::BuildError;

/// The versions of the packages that have one, by their names.
pub(crate) type PackageVersions = Arc<BTreeMap<String, String>>;

/// Limit of different assertions that join one build. Clients may invent them.
const MAX_ASSERTIONS: usize = 256;

/// A request's assertion: the first package of its name has this version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct VersionAssertion {
    package: String,
    version: AssertedVersion,
    /// The name of the image as it was requested, for the message.
    image: String,
}

impl VersionAssertion {
    /// Returns the assertion of a version about the first package of a name. `None`: the name
    /// lists meta-packages only.
    pub(crate) fn about(name: &ImageName, version: AssertedVersion) -> Option<Self> {
        Some(Self {
            package: name.first_package()?.to_owned(),
            version,
            image: name.as_str().to_owned(),
        })
    }

    /// Checks the assertion.
    ///
    /// # Errors
    /// [`BuildError::OtherVersion`].
    pub(crate) fn check(&self, versions: &BTreeMap<String, String>) -> Result<(), BuildError> {
        let version = versions.get(&self.package);
        if version.is_some_and(|version| self.version.matches(version)) {
            return Ok(());
        }
        Err(BuildError::OtherVersion {
            package: self.package.clone(),
            asserted: self.version.to_string(),
            tag: version.and_then(|version| version_tag(version)),
            version: version.cloned(),
            image: self.image.clone(),
        })
    }
}

/// Returns the tag that asserts a version in full, if there is one.
pub(crate) fn version_tag(version: &str) -> Option<Tag> {
    let tag = Tag::parse(version).ok()?;
    AssertedVersion::of(&tag).map(|_| tag)
}

/// Which versions the requests of a build accept, and which version there is.
#[derive(Debug, Default)]
pub(crate) struct VersionCheck {
    /// Whether a request accepts every version.
    accepts_any: bool,
    /// What the other requests assert. Empty after the check.
    asserted: HashSet<VersionAssertion>,
    state: CheckState,
}

#[derive(Debug, Default, Clone)]
enum CheckState {
    /// The versions are not known yet.
    #[default]
    Open,
    /// Nothing is asserted: the tag is a branch or tag of the source, or the build has failed.
    Void,
    /// The image was found, and its versions are not known. No request asserts one.
    Unknown,
    /// The versions are known. The build goes on if a request accepts them.
    Known {
        versions: PackageVersions,
        is_accepted: bool,
    },
}

/// Whether a request can join a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// It can, and has.
    Joined,
    /// The build gives the request no image, although another build may.
    TooLate,
    /// Too many requests assert other versions.
    Full,
}

impl VersionCheck {
    /// Adds a request to a build.
    pub(crate) fn join(&mut self, assertion: Option<&VersionAssertion>) -> Joining {
        match (&self.state, assertion) {
            (CheckState::Open, None) => {
                self.accepts_any = true;
                Joining::Joined
            }
            (CheckState::Open, Some(assertion)) => {
                if self.asserted.len() >= MAX_ASSERTIONS && !self.asserted.contains(assertion) {
                    return Joining::Full;
                }
                self.asserted.insert(assertion.clone());
                Joining::Joined
            }
            (CheckState::Void, _) | (CheckState::Unknown, None) => Joining::Joined,
            (CheckState::Unknown, Some(_)) => Joining::TooLate,
            (
                CheckState::Known {
                    versions,
                    is_accepted,
                },
                assertion,
            ) => {
                let refused = assertion.is_some_and(|it| it.check(versions).is_err());
                match *is_accepted || refused {
                    true => Joining::Joined,
                    false => Joining::TooLate,
                }
            }
        }
    }

    /// Sets the versions, unless nothing is asserted.
    ///
    /// # Errors
    /// No request accepts them: the error of one of the requests.
    pub(crate) fn decide(&mut self, versions: &PackageVersions) -> Result<(), BuildError> {
        if !self.is_open() {
            return Ok(());
        }
        let mut refused = None;
        let mut is_accepted = self.accepts_any;
        for assertion in self.asserted.drain() {
            match assertion.check(versions) {
                Ok(()) => is_accepted = true,
                Err(error) => refused = Some(error),
            }
        }
        let refused = refused.filter(|_| !is_accepted);
        self.state = CheckState::Known {
            versions: Arc::clone(versions),
            is_accepted: refused.is_none(),
        };
        refused.map_or(Ok(()), Err)
    }

    /// Closes the check of an image whose versions are not known, and returns `true`; or returns
    /// `false`, as a request asserts a version.
    pub(crate) fn close_unasserted(&mut self) -> bool {
        let is_unasserted = self.asserted.is_empty();
        if is_unasserted && self.is_open() {
            self.state = CheckState::Unknown;
        }
        is_unasserted
    }

    /// Drops all assertions: the tag is no version, or the build has failed.
    pub(crate) fn void(&mut self) {
        if self.is_open() {
            self.asserted.clear();
            self.state = CheckState::Void;
        }
    }

    /// Whether the versions may still become known.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, CheckState::Open)
    }

    /// Checks an assertion, as far as the versions are known.
    ///
    /// # Errors
    /// [`BuildError::OtherVersion`].
    pub(crate) fn check(&self, assertion: &VersionAssertion) -> Result<(), BuildError> {
        match &self.state {
            CheckState::Known { versions, .. } => assertion.check(versions),
            CheckState::Open | CheckState::Void | CheckState::Unknown => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn assertion(tag: &str) -> VersionAssertion {
        let version = AssertedVersion::of(&Tag::parse(tag).expect("a tag")).expect("a version");
        let name = ImageName::parse("shell/git/htop").expect("a name");
        VersionAssertion::about(&name, version).expect("lists a package")
    }

    fn versions(git: &str) -> PackageVersions {
        let versions = [("git", git), ("htop", "3.2.2")];
        let versions = versions.map(|(name, version)| (name.to_owned(), version.to_owned()));
        Arc::new(versions.into())
    }

    #[rstest]
    #[case::served("2.39", Some("2.39.5"), None)]
    #[case::other(
        "2.30",
        Some("2.39.5"),
        Some(
            "the package `git` has the version 2.39.5 here, not 2.30. Fix: pull `shell/git/htop:2.39.5`, or without a tag"
        )
    )]
    #[case::not_a_tag(
        "2.30",
        Some("2.39+git"),
        Some(
            "the package `git` has the version 2.39+git here, not 2.30. Fix: pull `shell/git/htop` without a tag"
        )
    )]
    #[case::none(
        "2.30",
        None,
        Some(
            "the package `git` has no version here, so not 2.30. Fix: pull `shell/git/htop` without a tag"
        )
    )]
    fn the_first_package_must_have_the_version(
        #[case] tag: &str,
        #[case] version: Option<&str>,
        #[case] message: Option<&str>,
    ) {
        let mut versions = (*versions("")).clone();
        match version {
            Some(version) => versions.insert("git".to_owned(), version.to_owned()),
            None => versions.remove("git"),
        };
        let checked = assertion(tag).check(&versions);
        let found = checked.err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), message);
    }

    #[test]
    fn a_name_of_meta_packages_has_nothing_to_assert() {
        let name = ImageName::parse("shell").expect("a name");
        let version = AssertedVersion::of(&Tag::parse("5").expect("a tag")).expect("a version");
        assert_eq!(VersionAssertion::about(&name, version), None);
    }

    /// Whether the build goes on, and whether requests can join it afterwards: one without an
    /// assertion, a right one, a wrong one.
    #[rstest]
    #[case::any(&[None], true, [true, true, true])]
    #[case::right(&[Some("2.39")], true, [true, true, true])]
    #[case::wrong(&[Some("2.30")], false, [false, false, true])]
    #[case::wrong_and_any(&[Some("2.30"), None], true, [true, true, true])]
    #[case::wrong_and_right(&[Some("2.30"), Some("2")], true, [true, true, true])]
    fn a_build_goes_on_if_a_request_accepts_its_versions(
        #[case] requests: &[Option<&str>],
        #[case] goes_on: bool,
        #[case] joined: [bool; 3],
    ) {
        let mut check = VersionCheck::default();
        for request in requests {
            let request = request.map(assertion);
            assert_eq!(check.join(request.as_ref()), Joining::Joined);
        }
        assert_eq!(check.decide(&versions("2.39.5")).is_ok(), goes_on);
        let (right, wrong) = (assertion("2.39.5"), assertion("2.38"));
        let joins = [None, Some(&right), Some(&wrong)];
        let joins = joins.map(|request| check.join(request) == Joining::Joined);
        assert_eq!(joins, joined);
        assert!(check.check(&right).is_ok());
        assert!(check.check(&wrong).is_err());
    }

    #[test]
    fn an_image_without_versions_serves_only_requests_without_assertions() {
        let mut check = VersionCheck::default();
        assert_eq!(check.join(None), Joining::Joined);
        assert!(check.close_unasserted());
        assert_eq!(check.join(Some(&assertion("2"))), Joining::TooLate);
        assert_eq!(check.join(None), Joining::Joined);

        let mut check = VersionCheck::default();
        assert_eq!(check.join(Some(&assertion("2"))), Joining::Joined);
        assert!(!check.close_unasserted());
        assert!(check.is_open());
    }

    #[test]
    fn a_tag_that_is_a_branch_asserts_nothing() {
        let mut check = VersionCheck::default();
        assert_eq!(check.join(Some(&assertion("2"))), Joining::Joined);
        check.void();
        assert!(check.decide(&versions("3")).is_ok());
        assert!(check.check(&assertion("2")).is_ok());
        assert_eq!(check.join(Some(&assertion("3"))), Joining::Joined);
    }

    #[test]
    fn the_assertions_of_a_build_are_bounded() {
        let mut check = VersionCheck::default();
        for n in 0..MAX_ASSERTIONS {
            assert_eq!(
                check.join(Some(&assertion(&n.to_string()))),
                Joining::Joined
            );
        }
        assert_eq!(check.join(Some(&assertion("2"))), Joining::Joined);
        assert_eq!(check.join(Some(&assertion("1000"))), Joining::Full);
        assert_eq!(check.join(None), Joining::Joined);
    }
}
