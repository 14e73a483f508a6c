//! Tags that select channels, branches and versions of packages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_core::{PackageSource, Tag};
use nixery_manifest::Digest;
use nixery_state::record::{self, ImageRecord, MANIFESTS};
use nixery_storage::Key;
use rstest::rstest;

use super::build;
use crate::config::BuilderConfig;
use crate::error::BuildError;
use crate::image::Image;
use crate::testing::{Fixture, git, pinned, tagged};

const INTERVAL: Duration = Duration::from_secs(60);

async fn pull(fixture: &Fixture, name: &str, tag: &str) -> Result<Arc<Image>, Arc<BuildError>> {
    fixture.builder.start(tagged(name, tag)).wait().await
}

#[track_caller]
fn other_version(result: Result<Arc<Image>, Arc<BuildError>>) -> Option<String> {
    match result.expect_err("is refused").as_ref() {
        BuildError::OtherVersion { version, .. } => version.clone(),
        error => panic!("{error:?}"),
    }
}

fn interval(config: &mut BuilderConfig) {
    config.eval_interval = INTERVAL;
}

#[rstest]
#[case::path(|_: &mut BuilderConfig| {})]
#[case::channel(|config: &mut BuilderConfig| {
    config.source = PackageSource::channel("nixos-26.05").expect("valid");
})]
#[case::pinned_channel(pinned)]
#[tokio::test]
async fn a_version_is_served_if_the_first_package_has_it(#[case] source: fn(&mut BuilderConfig)) {
    let fixture = Fixture::with(source).await;
    // Nothing is built for a wrong version.
    let refused = pull(&fixture, "shell/git/htop", "2.30").await;
    assert_eq!(other_version(refused).as_deref(), Some("2.39.5"));
    let refused = pull(&fixture, "htop/git", "2.39").await;
    assert_eq!(other_version(refused).as_deref(), Some("3.2.2"));
    assert_eq!(fixture.realisations(), 0);

    let latest = build(&fixture, "git/htop").await;
    for (name, tag) in [
        ("git/htop", "2"),
        ("git/htop", "v2.39"),
        ("git/htop", "2.39.5"),
        ("htop/git", "3.2"),
    ] {
        let image = pull(&fixture, name, tag).await.expect(tag);
        assert_eq!((image.key, &image.oci), (latest.key, &latest.oci), "{tag}");
    }
    // The wrong version is refused although the image is there.
    let refused = pull(&fixture, "git/htop", "2.39.50").await;
    assert_eq!(other_version(refused).as_deref(), Some("2.39.5"));
    assert_eq!(fixture.realisations(), 1);
}

#[tokio::test]
async fn a_package_without_a_version_has_none_of_them() {
    let fixture = Fixture::new().await;
    let refused = pull(&fixture, "unversioned", "1").await;
    assert_eq!(other_version(refused), None);
    // No package is listed whose version it could be.
    let error = pull(&fixture, "shell", "1").await.expect_err("is refused");
    assert!(
        matches!(&*error, BuildError::UnknownTag { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn other_tags_are_refused_without_nix() {
    let fixture = Fixture::with(|config| {
        interval(config);
        config.source = PackageSource::channel("nixos-26.05").expect("valid");
        config.channels = "nixos-25.11".parse().expect("channels");
    })
    .await;
    let refused = async || {
        let error = pull(&fixture, "git", "nonsense").await.expect_err("no tag");
        let ready = fixture.builder.warm_image(&tagged("git", "nonsense")).await;
        assert_eq!(ready.expect_err("no tag").to_string(), error.to_string());
        error.to_string()
    };
    assert_eq!(
        refused().await,
        "the package source has no tag `nonsense`. Fix: use `latest`, `nixos-26.05`, `nixos-25.11`, or the version of the first package"
    );
    assert_eq!(fixture.evaluations(), 0);
    assert!(fixture.builder.recent().is_empty(), "it leaves no trace");
    build(&fixture, "git").await;
    let message = refused().await;
    assert!(message.contains("`nixos-25.11`, `2.39.5`, or"), "{message}");
}

#[tokio::test]
async fn an_allowed_channel_is_a_source_of_its_own() {
    let fixture = Fixture::with(|config| {
        config.source = PackageSource::channel("nixos-26.05").expect("valid");
        config.channels = "nixos-25.11".parse().expect("channels");
    })
    .await;
    let latest = build(&fixture, "git").await;
    let own = pull(&fixture, "git", "nixos-26.05").await.expect("its own");
    assert_eq!(own.oci, latest.oci);
    let other = pull(&fixture, "git", "25.11").await.expect("is allowed");
    assert_ne!(other.oci, latest.oci, "its label names the channel");
}

#[tokio::test(start_paused = true)]
async fn versions_are_checked_in_memory() {
    let fixture = Fixture::with(interval).await;
    let ready = async |tag: &str| fixture.builder.warm_image(&tagged("git", tag)).await;
    let built = pull(&fixture, "git", "2.39").await.expect("has it");
    for tag in ["latest", "2.39", "2"] {
        let warm = ready(tag).await.expect("has it").expect("is warm");
        assert_eq!(warm.image.oci, built.oci);
    }
    let refused = ready("2.30").await.expect_err("has another");
    assert_eq!(refused.kind(), "other-version");
    let refused = fixture.builder.kept_image(&tagged("git", "2.30")).await;
    assert_eq!(refused.expect_err("has another").kind(), "other-version");
    assert_eq!(fixture.evaluations(), 1);

    // What is in memory may be older than the source, and then refuses nothing.
    tokio::time::advance(INTERVAL).await;
    fixture.nix.edits.store(1, Ordering::SeqCst);
    assert!(ready("2.39.6").await.expect("may have it").is_none());
    assert!(pull(&fixture, "git", "2.39.6").await.is_ok());
    assert!(ready("2.39.6").await.expect("has it").is_some());
    assert_eq!(
        ready("2.39.5").await.expect_err("had it").kind(),
        "other-version"
    );
    assert_eq!(fixture.evaluations(), 2);
}

/// One build for all: its requests end as their own tags say.
#[tokio::test]
async fn requests_with_different_versions_share_a_build() {
    let fixture = Fixture::with(|config| config.failure_ttl = Duration::from_secs(3600)).await;
    fixture.nix.gate.forget_permits(usize::MAX);
    let wrong = fixture.builder.start(tagged("git", "2.30"));
    let right = fixture.builder.start(tagged("git", "2.39"));
    let other_order = fixture.builder.start(tagged("git/git", "1"));
    assert_eq!(wrong.id(), right.id());
    assert_eq!(wrong.id(), other_order.id());
    // Who may pull what is decided by the tag that the client sent.
    assert_eq!(right.request(), &tagged("git", "2.39"));
    // They end while the packages are still being built.
    other_version(wrong.wait().await);
    other_version(other_order.wait().await);
    assert!(wrong.result().is_some_and(|result| result.is_err()));
    assert!(right.result().is_none());
    let joined = fixture.builder.start(tagged("git", "2.31"));
    assert_eq!(joined.id(), right.id());
    other_version(joined.wait().await);
    fixture.nix.gate.add_permits(1);
    assert!(right.wait().await.is_ok());
    assert!(wrong.without_assertion().wait().await.is_ok());
    assert_eq!((fixture.evaluations(), fixture.realisations()), (1, 1));
}

#[tokio::test]
async fn a_refused_version_answers_other_wrong_versions_only() {
    let fixture = Fixture::with(|config| config.failure_ttl = Duration::from_secs(3600)).await;
    other_version(pull(&fixture, "git", "2.30").await);
    other_version(pull(&fixture, "git", "2.31").await);
    assert_eq!((fixture.evaluations(), fixture.realisations()), (1, 0));
    assert!(pull(&fixture, "git", "2.39").await.is_ok());
    assert!(pull(&fixture, "git", "latest").await.is_ok());
    assert_eq!(fixture.realisations(), 1);
}

/// Records of older programs do not have the versions.
#[tokio::test]
async fn an_image_without_versions_is_evaluated_and_not_built() {
    let fixture = Fixture::with(pinned).await;
    let image = build(&fixture, "git").await;
    let (storage, key) = (&*fixture.storage, Key::new(MANIFESTS, image.key));
    let record = record::load::<ImageRecord>(storage, None, &key).await;
    let record = record.expect("reads").expect("is there");
    let old = ImageRecord {
        versions: None,
        ..record.clone()
    };
    record::save(storage, None, &key, &old)
        .await
        .expect("writes");

    // Another server, without the image in memory.
    let other = Fixture::over(fixture.storage.clone(), pinned).await;
    assert!(build(&other, "git").await.stats.from_cache);
    assert_eq!(other.evaluations(), 0);
    let refused = pull(&other, "git", "2.30").await;
    assert_eq!(other_version(refused).as_deref(), Some("2.39.5"));
    assert_eq!((other.evaluations(), other.packed()), (1, fixture.packed()));
    let written = record::load::<ImageRecord>(storage, None, &key).await;
    assert_eq!(written.expect("reads"), Some(record));
    assert!(pull(&other, "git", "2.39").await.is_ok());
    assert_eq!((other.evaluations(), other.realisations()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_branch_wins_over_a_version() {
    let fixture = Fixture::with(|config| {
        git(config);
        interval(config);
    })
    .await;
    *fixture.nix.missing_refs.lock().expect("not poisoned") = vec!["2.39", "2.30"];
    let latest = build(&fixture, "git").await;
    let branch = pull(&fixture, "git", "1.0").await.expect("is a branch");
    assert_ne!(branch.oci, latest.oci, "its label names the branch");

    let version = pull(&fixture, "git", "2.39").await.expect("has it");
    assert_eq!((version.key, &version.oci), (latest.key, &latest.oci));
    let refused = pull(&fixture, "git", "2.30").await;
    assert_eq!(other_version(refused).as_deref(), Some("2.39.5"));
    // From now on they answer from memory.
    let ready = async |tag: &str| fixture.builder.warm_image(&tagged("git", tag)).await;
    assert!(ready("2.39").await.expect("has it").is_some());
    assert_eq!(
        ready("2.30").await.expect_err("has another").kind(),
        "other-version"
    );
    let branch = ready("1.0").await.expect("is a branch");
    assert!(branch.is_some());
    assert_eq!(fixture.evaluations(), 2);

    // The name of a new branch.
    fixture
        .nix
        .missing_refs
        .lock()
        .expect("not poisoned")
        .clear();
    tokio::time::advance(INTERVAL).await;
    assert!(ready("2.30").await.expect("may be one").is_none());
    let branch = pull(&fixture, "git", "2.30").await.expect("is a branch");
    assert_ne!(branch.oci, latest.oci);
}

/// The first request for a version looks for a branch, and then builds what `latest` is.
#[tokio::test]
async fn a_version_of_a_git_source_is_built_once() {
    let fixture = Fixture::with(|config| {
        git(config);
        config.lease_ttl = Duration::from_secs(3600);
    })
    .await;
    *fixture.nix.missing_refs.lock().expect("not poisoned") = vec!["2.39"];
    let handles = ["latest", "2.39", "2.39"].map(|tag| fixture.builder.start(tagged("git", tag)));
    for handle in handles {
        handle.wait().await.expect("builds");
    }
    assert_eq!((fixture.evaluations(), fixture.realisations()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn listed_tags_can_be_requested() {
    let list = async |fixture: &Fixture, name: &str| {
        let name = tagged(name, "latest").name;
        let tags = fixture.builder.tags(&name).await;
        let tags: Vec<_> = tags.iter().map(Tag::to_string).collect();
        tags.join(" ")
    };
    let fixture = Fixture::with(|config| {
        git(config);
        interval(config);
    })
    .await;
    assert_eq!(list(&fixture, "git").await, "latest main v1");
    let _ = pull(&fixture, "git/htop", "nonsense").await;
    assert_eq!(list(&fixture, "git/htop").await, "latest main v1");
    build(&fixture, "git/htop").await;
    assert_eq!(list(&fixture, "git/htop").await, "2.39.5 latest main v1");
    assert_eq!(list(&fixture, "htop/git").await, "3.2.2 latest main v1");
    assert_eq!(list(&fixture, "git").await, "latest main v1");

    let fixture = Fixture::with(|config| {
        config.source = PackageSource::channel("nixos-26.05").expect("valid");
        config.channels = "nixos-25.11".parse().expect("channels");
    })
    .await;
    assert_eq!(
        list(&fixture, "git").await,
        "latest nixos-25.11 nixos-26.05"
    );
}

/// A variable such as `NIXPKGS_ALLOW_UNFREE` decides what a revision gives.
#[tokio::test]
async fn servers_with_different_variables_do_not_share_images() {
    let first = Fixture::with(pinned).await;
    let second = Fixture::over(first.storage.clone(), pinned).await;
    let third = Fixture::over(first.storage.clone(), pinned).await;
    *second.nix.configuration.lock().expect("not poisoned") = Some(Digest::of(b"unfree"));
    *third.nix.configuration.lock().expect("not poisoned") = Some(Digest::of(b"broken"));
    let mut keys = Vec::new();
    for fixture in [&first, &second, &third] {
        let image = build(fixture, "git").await;
        assert!(!image.stats.from_cache);
        assert_eq!(fixture.evaluations(), 1);
        assert!(build(fixture, "git").await.stats.from_cache);
        keys.push(image.key);
    }
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}
