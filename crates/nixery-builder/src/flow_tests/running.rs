//! How builds run: once, detached, limited, and remembered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_core::PackageSource;
use nixery_nix::PackageError;

use super::{build, fail};
use crate::error::BuildError;
use crate::handle::BuildState;
use crate::progress::Phase;
use crate::testing::{Fixture, request, tagged};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_clients_cause_one_build() {
    let fixture = Fixture::new().await;
    fixture.nix.gate.forget_permits(usize::MAX);
    let requests = ["git/hello", "hello/git", "hello/git/hello"]
        .into_iter()
        .cycle()
        .take(50);
    let handles: Vec<_> = requests
        .map(|name| fixture.builder.start(request(name)))
        .collect();
    assert_eq!(fixture.builder.running(), 1);
    fixture.nix.gate.add_permits(50);
    for handle in &handles {
        assert_eq!(handle.id(), handles[0].id());
        handle.wait().await.expect("builds");
    }
    assert_eq!((fixture.evaluations(), fixture.realisations()), (1, 1));
}

#[tokio::test]
async fn a_build_continues_when_its_client_disconnects() {
    let fixture = Fixture::new().await;
    fixture.nix.gate.forget_permits(usize::MAX);
    let handle = fixture.builder.start(request("git"));
    let mut progress = handle.progress();
    let waiting = tokio::spawn(async move { handle.wait().await });
    progress
        .wait_for(|progress| progress.phase == Phase::Realise)
        .await
        .expect("runs");
    waiting.abort();
    assert!(waiting.await.expect_err("aborted").is_cancelled());
    drop(progress);

    fixture.nix.gate.add_permits(1);
    fixture.builder.drain().await;
    let summary = fixture.builder.recent().remove(0);
    assert!(
        matches!(summary.state, BuildState::Succeeded { .. }),
        "{summary:?}"
    );
    assert!(build(&fixture, "git").await.stats.from_cache);
}

#[tokio::test]
async fn builds_are_limited() {
    let fixture = Fixture::with(|config| config.max_builds = 2).await;
    fixture.nix.gate.forget_permits(usize::MAX);
    let handles: Vec<_> = (0..6)
        .map(|n| fixture.builder.start(request(&format!("tool{n}"))))
        .collect();
    // All are evaluated, two are realised, and the rest wait.
    for handle in &handles {
        let mut progress = handle.progress();
        let settled = |phase| matches!(phase, Phase::Realise | Phase::Queued);
        progress
            .wait_for(|progress| progress.log_line.is_some() && settled(progress.phase))
            .await
            .expect("runs");
    }
    assert_eq!(fixture.realisations(), 2);
    fixture.nix.gate.add_permits(6);
    for handle in handles {
        handle.wait().await.expect("builds");
    }
}

#[tokio::test]
async fn tags_that_mean_the_same_image_cause_one_build() {
    let fixture = Fixture::new().await;
    let (latest, version) = (request("git"), tagged("git", "2.39"));
    let first = fixture.builder.start(latest.clone());
    assert_eq!(fixture.builder.start(version).id(), first.id());
    first.wait().await.expect("builds");
    assert_eq!(fixture.evaluations(), 1);

    // In a git repository they are branches.
    let git = PackageSource::git("https://example.org/pkgs").expect("valid");
    let fixture = Fixture::with(|config| config.source = git).await;
    let first = fixture.builder.start(latest);
    let other = fixture.builder.start(tagged("git", "stable"));
    assert_ne!(other.id(), first.id());
    fixture.builder.drain().await;
    assert_eq!(fixture.evaluations(), 2);
}

#[tokio::test]
async fn waiting_builds_are_limited() {
    let fixture = Fixture::with(|config| {
        config.max_waiting = 3;
        config.failure_ttl = Duration::from_secs(3600);
    })
    .await;
    fixture.nix.gate.forget_permits(usize::MAX);
    let names = ["a", "b", "c"];
    let accepted = names.map(|name| fixture.builder.start(request(name)));
    let error = fail(&fixture, "d").await;
    assert!(
        matches!(&*error, BuildError::Busy { waiting: 3 }),
        "{error:?}"
    );
    assert_eq!(fixture.builder.recent().len(), 3, "it leaves no trace");
    // A request that joins a build does not count.
    assert_eq!(fixture.builder.start(request("a")).id(), accepted[0].id());

    fixture.nix.gate.add_permits(4);
    for handle in accepted {
        handle.wait().await.expect("builds");
    }
    fixture.builder.drain().await;
    build(&fixture, "d").await;
}

#[tokio::test]
async fn a_failure_answers_until_its_ttl_and_then_is_tried_again() {
    let fixture = Fixture::with(|config| config.failure_ttl = Duration::from_secs(3600)).await;
    let first = fixture.builder.start(request("missing-a/missing-b"));
    match &*first.wait().await.expect_err("fails") {
        BuildError::Package(PackageError::NotFound { packages }) => {
            assert_eq!(packages, &["missing-a", "missing-b"])
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(
        fixture.builder.start(request("missing-b/missing-a")).id(),
        first.id()
    );
    assert_eq!(fixture.evaluations(), 1);

    let fixture = Fixture::new().await;
    for tries in 1..=2 {
        let error = fail(&fixture, "broken").await;
        assert_eq!(
            (error.slug().as_str(), error.log_tail()),
            ("broken:builder-exited-1", &["no".to_owned()][..])
        );
        assert_eq!(fixture.realisations(), tries);
    }
}

#[tokio::test]
async fn a_panic_is_a_failed_build() {
    let fixture = Fixture::new().await;
    let error = fail(&fixture, "panics").await;
    assert!(matches!(&*error, BuildError::Internal { .. }), "{error:?}");
    fixture.builder.drain().await;
    build(&fixture, "git").await;
}

#[tokio::test]
async fn gc_roots_last_as_long_as_the_build() {
    let fixture = Fixture::new().await;
    build(&fixture, "git").await;
    let roots = fixture
        .nix
        .gc_roots
        .lock()
        .expect("not poisoned")
        .take()
        .expect("was rooted");
    assert!(!roots.exists());
    let unrooted = &fixture.nix.packed_unrooted;
    assert!(!unrooted.load(Ordering::SeqCst), "packed without roots");
    fail(&fixture, "broken").await;
    let roots = fixture
        .nix
        .gc_roots
        .lock()
        .expect("not poisoned")
        .take()
        .expect("was rooted");
    assert!(!roots.exists());
}

#[tokio::test]
async fn history_is_bounded_and_cached_look_ups_do_not_fill_it() {
    let fixture = Fixture::with(|config| config.history = 5).await;
    fail(&fixture, "broken").await;
    for _ in 0..20 {
        build(&fixture, "git").await;
    }
    fixture.builder.drain().await;
    let recent = fixture.builder.recent();
    assert_eq!(recent.len(), 3, "failure, build, last look-up");
    let failed = recent.last().expect("is there");
    assert!(matches!(&failed.state, BuildState::Failed(error) if error.kind() == "build-failed"));
    let remembered = fixture.builder.find(&failed.id).expect("is there");
    let log = remembered.log().text();
    assert!(
        log.contains("realising\nerror: package `broken` failed to build"),
        "{log}"
    );

    for n in 0..10 {
        build(&fixture, &format!("tool{n}")).await;
    }
    fixture.builder.drain().await;
    assert_eq!(fixture.builder.recent().len(), 5);
    assert!(fixture.builder.find(&failed.id).is_none());
}
