//! How builds run: once, detached, limited, and remembered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_core::{PackageSource, Tag};

use super::{build, fail};
use crate::config::ImageRequest;
use crate::error::BuildError;
use crate::handle::BuildState;
use crate::progress::Phase;
use crate::testing::{Bench, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_clients_cause_one_build() {
    let bench = Bench::new().await;
    bench.nix.gate.forget_permits(usize::MAX);
    let requests = ["git/hello", "hello/git", "hello/git/hello"]
        .into_iter()
        .cycle()
        .take(50);
    let handles: Vec<_> = requests
        .map(|name| bench.builder.start(request(name)))
        .collect();
    assert_eq!(bench.builder.running(), 1);
    bench.nix.gate.add_permits(50);
    for handle in &handles {
        assert_eq!(handle.id(), handles[0].id());
        handle.wait().await.expect("builds");
    }
    assert_eq!((bench.evaluations(), bench.realisations()), (1, 1));
}

#[tokio::test]
async fn a_build_goes_on_when_its_client_is_gone() {
    let bench = Bench::new().await;
    bench.nix.gate.forget_permits(usize::MAX);
    let handle = bench.builder.start(request("git"));
    let mut progress = handle.progress();
    let waiting = tokio::spawn(async move { handle.wait().await });
    progress
        .wait_for(|progress| progress.phase == Phase::Realise)
        .await
        .expect("runs");
    waiting.abort();
    assert!(waiting.await.expect_err("aborted").is_cancelled());
    drop(progress);

    bench.nix.gate.add_permits(1);
    bench.builder.drain().await;
    let summary = bench.builder.recent().remove(0);
    assert!(
        matches!(summary.state, BuildState::Succeeded { .. }),
        "{summary:?}"
    );
    assert!(build(&bench, "git").await.stats.from_cache);
}

#[tokio::test]
async fn builds_are_limited() {
    let bench = Bench::with(|config| config.max_builds = 2).await;
    bench.nix.gate.forget_permits(usize::MAX);
    let handles: Vec<_> = (0..6)
        .map(|n| bench.builder.start(request(&format!("tool{n}"))))
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
    assert_eq!(bench.realisations(), 2);
    bench.nix.gate.add_permits(6);
    for handle in handles {
        handle.wait().await.expect("builds");
    }
}

#[tokio::test]
async fn tags_that_mean_the_same_image_cause_one_build() {
    let tagged = |tag: &str| ImageRequest {
        tag: Tag::parse(tag).expect("valid"),
        ..request("git")
    };
    // A directory has no tags.
    let bench = Bench::new().await;
    let (latest, v2) = (tagged("latest"), tagged("v2"));
    let first = bench.builder.start(latest.clone());
    assert_eq!(bench.builder.start(v2.clone()).id(), first.id());
    first.wait().await.expect("builds");
    assert_eq!(bench.evaluations(), 1);

    // In a git repository they are branches.
    let git = PackageSource::git("https://example.org/pkgs").expect("valid");
    let bench = Bench::with(|config| config.source = git).await;
    let first = bench.builder.start(latest);
    assert_ne!(bench.builder.start(v2).id(), first.id());
    bench.builder.drain().await;
    assert_eq!(bench.evaluations(), 2);
}

#[tokio::test]
async fn waiting_builds_are_limited() {
    let bench = Bench::with(|config| {
        config.max_waiting = 3;
        config.failure_ttl = Duration::from_secs(3600);
    })
    .await;
    bench.nix.gate.forget_permits(usize::MAX);
    let names = ["a", "b", "c"];
    let accepted = names.map(|name| bench.builder.start(request(name)));
    let error = fail(&bench, "d").await;
    assert!(
        matches!(&*error, BuildError::Busy { waiting: 3 }),
        "{error:?}"
    );
    assert_eq!(bench.builder.recent().len(), 3, "it leaves no trace");
    // Who joins a build is no further one.
    assert_eq!(bench.builder.start(request("a")).id(), accepted[0].id());

    bench.nix.gate.add_permits(4);
    for handle in accepted {
        handle.wait().await.expect("builds");
    }
    bench.builder.drain().await;
    build(&bench, "d").await;
}

#[tokio::test]
async fn a_failure_answers_for_a_while_and_then_is_tried_again() {
    let bench = Bench::with(|config| config.failure_ttl = Duration::from_secs(3600)).await;
    let first = bench.builder.start(request("missing-a/missing-b"));
    match &*first.wait().await.expect_err("fails") {
        BuildError::NotFound { packages } => assert_eq!(packages, &["missing-a", "missing-b"]),
        error => panic!("{error:?}"),
    }
    assert_eq!(
        bench.builder.start(request("missing-b/missing-a")).id(),
        first.id()
    );
    assert_eq!(bench.evaluations(), 1);

    let bench = Bench::new().await;
    for tries in 1..=2 {
        let error = fail(&bench, "broken").await;
        assert_eq!(
            (error.slug().as_str(), error.log_tail()),
            ("broken:builder-exited-1", &["no".to_owned()][..])
        );
        assert_eq!(bench.realisations(), tries);
    }
}

#[tokio::test]
async fn a_panic_is_a_failed_build() {
    let bench = Bench::new().await;
    let error = fail(&bench, "panics").await;
    assert!(matches!(&*error, BuildError::Internal { .. }), "{error:?}");
    bench.builder.drain().await;
    build(&bench, "git").await;
}

#[tokio::test]
async fn gc_roots_last_as_long_as_the_build() {
    let bench = Bench::new().await;
    build(&bench, "git").await;
    let roots = bench
        .nix
        .gc_roots
        .lock()
        .expect("not poisoned")
        .take()
        .expect("was rooted");
    assert!(!roots.exists());
    let unrooted = &bench.nix.packed_unrooted;
    assert!(!unrooted.load(Ordering::SeqCst), "packed without roots");
    fail(&bench, "broken").await;
    let roots = bench
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
    let bench = Bench::with(|config| config.history = 5).await;
    fail(&bench, "broken").await;
    for _ in 0..20 {
        build(&bench, "git").await;
    }
    bench.builder.drain().await;
    let recent = bench.builder.recent();
    assert_eq!(recent.len(), 3, "failure, build, last look-up");
    let failed = recent.last().expect("is there");
    assert!(matches!(&failed.state, BuildState::Failed(error) if error.kind() == "build-failed"));
    let remembered = bench.builder.find(&failed.id).expect("is there");
    let log = remembered.log().text();
    assert!(
        log.contains("realising\nerror: package `broken` failed to build"),
        "{log}"
    );

    for n in 0..10 {
        build(&bench, &format!("tool{n}")).await;
    }
    bench.builder.drain().await;
    assert_eq!(bench.builder.recent().len(), 5);
    assert!(bench.builder.find(&failed.id).is_none());
}
