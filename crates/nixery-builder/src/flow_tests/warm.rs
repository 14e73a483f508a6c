//! Images that answer without a build, and for how long. The clock stands still.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use nixery_core::{PackageSource, Tag};
use nixery_manifest::Digest;
use nixery_storage::{Key, Storage};
use tokio::time::{Instant, advance};

use super::{build, bytes, fail};
use crate::builder::WarmImage;
use crate::config::{BuilderConfig, ImageRequest, STALE_INTERVALS};
use crate::handle::BuildState;
use crate::progress::Phase;
use crate::testing::{Bench, pinned, request};
use crate::warm::WarmImages;
use nixery_state::record::MANIFESTS;

const INTERVAL: Duration = Duration::from_secs(60);
const RECHECK: Duration = Duration::from_secs(10);
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// A source that moves, looked at once in an interval.
fn moving(config: &mut BuilderConfig) {
    config.eval_interval = INTERVAL;
    config.recheck_after = RECHECK;
    config.failure_ttl = FAILURE_TTL;
}

async fn ready(bench: &Bench, name: &str) -> Option<WarmImage> {
    bench.builder.warm_image(&request(name)).await
}

#[tokio::test(start_paused = true)]
async fn within_the_interval_nothing_is_evaluated() {
    let bench = Bench::with(moving).await;
    assert!(ready(&bench, "git").await.is_none());
    let built = build(&bench, "git").await;
    for _ in 0..5 {
        advance(INTERVAL / 6).await;
        let ready = ready(&bench, "git").await.expect("is warm");
        assert_eq!(ready.image.oci, built.oci);
        assert!(ready.refresh.is_none());
    }
    assert_eq!(bench.evaluations(), 1);
    // However it is spelled, and whatever it is tagged: a folder has no tags.
    let spelled = ImageRequest {
        tag: Tag::parse("v2").expect("valid"),
        ..request("git/git")
    };
    assert!(bench.builder.warm_image(&spelled).await.is_some());
    assert!(ready(&bench, "htop").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn after_the_interval_the_old_image_answers_while_one_evaluation_runs() {
    let bench = Bench::with(moving).await;
    let old = build(&bench, "git").await;
    bench.nix.edits.store(1, Ordering::SeqCst);
    bench.nix.gate.forget_permits(usize::MAX);
    advance(INTERVAL).await;

    let answers = join_all((0..100).map(|_| ready(&bench, "git"))).await;
    let mut refreshes = Vec::new();
    for answer in answers {
        let answer = answer.expect("is warm");
        assert_eq!(answer.image.oci, old.oci);
        refreshes.extend(answer.refresh);
    }
    let [refresh] = &refreshes[..] else {
        panic!("{refreshes:?}")
    };
    advance(INTERVAL).await;
    let answer = ready(&bench, "git").await.expect("is warm");
    assert_eq!(answer.image.oci, old.oci, "the build still runs");
    assert_eq!(answer.refresh.expect("is tried").id(), refresh.id());

    bench.nix.gate.add_permits(1);
    let new = refresh.wait().await.expect("builds");
    assert_ne!(new.oci, old.oci);
    // The evaluation is an interval old: the image answers, and is looked at again.
    let answer = ready(&bench, "git").await.expect("is warm");
    assert_eq!(answer.image.oci, new.oci);
    assert_eq!(bench.evaluations(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_answered_with_what_is_too_old() {
    let bench = Bench::with(moving).await;
    build(&bench, "git").await;
    advance(INTERVAL * STALE_INTERVALS - Duration::from_millis(1)).await;
    let last = ready(&bench, "git").await.expect("is warm");
    bench.nix.unreadable.store(true, Ordering::SeqCst);
    let refresh = last.refresh.expect("is due");
    refresh.wait().await.expect_err("fails");
    advance(Duration::from_millis(1)).await;
    assert!(ready(&bench, "git").await.is_none());
    fail(&bench, "git").await;
    bench.nix.unreadable.store(false, Ordering::SeqCst);
    advance(FAILURE_TTL).await;
    build(&bench, "git").await;
    assert!(ready(&bench, "git").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_broken_for_a_while_breaks_no_pull_and_its_failure_can_be_seen() {
    let bench = Bench::with(moving).await;
    let old = build(&bench, "git").await;
    bench.nix.unreadable.store(true, Ordering::SeqCst);
    advance(INTERVAL).await;
    let first = ready(&bench, "git").await.expect("is warm");
    let refresh = first.refresh.expect("is due");
    refresh.wait().await.expect_err("fails");
    assert!(bench.builder.find(&refresh.id()).is_some());

    // It is tried again, not more often than other failures are.
    for seconds in 1..=20 {
        advance(Duration::from_secs(1)).await;
        let answer = ready(&bench, "git").await.expect("is warm");
        assert_eq!(answer.image.oci, old.oci);
        if let Some(refresh) = answer.refresh {
            refresh.wait().await.expect_err("fails");
        }
        assert_eq!(bench.evaluations(), 2 + seconds / 5);
    }

    bench.nix.unreadable.store(false, Ordering::SeqCst);
    advance(FAILURE_TTL).await;
    let answer = ready(&bench, "git").await.expect("is warm");
    answer.refresh.expect("is due").wait().await.expect("works");
    assert!(
        ready(&bench, "git")
            .await
            .expect("is warm")
            .refresh
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_took_long_to_build_answers_for_an_interval() {
    for (age, answers) in [
        (INTERVAL - Duration::from_millis(1), true),
        (INTERVAL, false),
    ] {
        let bench = Bench::with(moving).await;
        bench.nix.gate.forget_permits(usize::MAX);
        let handle = bench.builder.start(request("git"));
        let mut progress = handle.progress();
        let realising = progress.wait_for(|progress| progress.phase == Phase::Realise);
        drop(realising.await.expect("runs"));
        advance(INTERVAL * (STALE_INTERVALS + 5)).await;
        bench.nix.gate.add_permits(1);
        handle.wait().await.expect("builds");
        advance(age).await;
        let answer = ready(&bench, "git").await;
        assert_eq!(answer.is_some_and(|it| it.refresh.is_some()), answers);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_may_be_evaluated_once_and_for_all() {
    let bench = Bench::with(|config| {
        moving(config);
        config.eval_interval = Duration::MAX;
    })
    .await;
    build(&bench, "git").await;
    advance(INTERVAL * STALE_INTERVALS).await;
    let answer = ready(&bench, "git").await.expect("is warm");
    assert!(answer.refresh.is_none());
}

#[tokio::test(start_paused = true)]
async fn where_many_wait_nothing_is_evaluated_in_the_background() {
    let bench = Bench::with(|config| {
        moving(config);
        config.max_waiting = 4;
    })
    .await;
    build(&bench, "git").await;
    advance(INTERVAL).await;
    bench.nix.gate.forget_permits(usize::MAX);
    let waiting = ["htop", "nano"].map(|name| bench.builder.start(request(name)));
    let answer = ready(&bench, "git").await.expect("is warm");
    assert!(answer.refresh.is_none());
    bench.nix.gate.add_permits(waiting.len());
    bench.builder.drain().await;
    let answer = ready(&bench, "git").await.expect("is warm");
    assert!(answer.refresh.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_evaluation_that_changes_nothing_takes_no_place_among_the_builds() {
    let bench = Bench::with(|config| {
        moving(config);
        config.history = 2;
    })
    .await;
    for name in ["git", "htop"] {
        build(&bench, name).await;
    }
    let ids = || -> Vec<_> {
        let recent = bench.builder.recent();
        recent.into_iter().map(|build| build.id).collect()
    };
    let builds = ids();
    advance(INTERVAL).await;
    for name in ["git", "htop"] {
        let answer = ready(&bench, name).await.expect("is warm");
        let refresh = answer.refresh.expect("is due");
        // Its log can be read as long as it runs.
        assert!(bench.builder.find(&refresh.id()).is_some());
        assert!(refresh.wait().await.expect("works").stats.from_cache);
        bench.builder.drain().await;
    }
    assert_eq!(ids(), builds);

    bench.nix.edits.store(1, Ordering::SeqCst);
    advance(INTERVAL).await;
    let answer = ready(&bench, "git").await.expect("is warm");
    let refresh = answer.refresh.expect("is due");
    refresh.wait().await.expect("builds");
    bench.builder.drain().await;
    assert_eq!(ids(), [refresh.id(), builds[0]]);
    let state = bench.builder.recent().remove(0).state;
    let built = |state| {
        matches!(
            state,
            BuildState::Succeeded {
                from_cache: false,
                ..
            }
        )
    };
    assert!(built(state));
}

#[tokio::test(start_paused = true)]
async fn with_an_interval_of_zero_each_request_evaluates() {
    let bench = Bench::with(|config| {
        moving(config);
        config.eval_interval = Duration::ZERO;
    })
    .await;
    for evaluations in 1..=3 {
        assert!(ready(&bench, "git").await.is_none());
        build(&bench, "git").await;
        assert_eq!(bench.evaluations(), evaluations);
    }
}

#[test]
fn a_local_path_is_evaluated_each_time_unless_configured() {
    let interval = |source| BuilderConfig::new(source, "/nonexistent").eval_interval;
    let path = PackageSource::path("/srv/pkgs").expect("valid");
    let git = PackageSource::git("https://example.org/pkgs").expect("valid");
    assert_eq!(interval(path), Duration::ZERO);
    assert_eq!(interval(git), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_change_is_never_evaluated_again() {
    let bench = Bench::with(|config| {
        moving(config);
        pinned(config);
        config.eval_interval = Duration::ZERO;
    })
    .await;
    let built = build(&bench, "git").await;
    for _ in 0..3 {
        advance(INTERVAL * STALE_INTERVALS * 10).await;
        let ready = ready(&bench, "git").await.expect("is warm");
        assert_eq!(ready.image.oci, built.oci);
        assert!(ready.refresh.is_none());
    }
    assert_eq!(bench.evaluations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_blob_is_noticed_when_it_is_reported_or_after_a_while() {
    for source in [moving, |config: &mut BuilderConfig| {
        moving(config);
        pinned(config);
    }] {
        let bench = Bench::with(source).await;
        let image = build(&bench, "git").await;
        let layer = image.layers[0].digest;
        for reported in [true, false] {
            let deleted = bench.storage.delete(&Key::blob(layer)).await;
            assert!(deleted.expect("deletes"));
            assert!(ready(&bench, "git").await.is_some(), "confirmed recently");
            if reported {
                bench.builder.report_missing(&layer);
            } else {
                advance(RECHECK).await;
            }
            let answers = join_all((0..10).map(|_| ready(&bench, "git"))).await;
            assert!(answers.iter().all(Option::is_none));
            assert_eq!(build(&bench, "git").await.oci, image.oci);
            assert!(bytes(&bench, &layer).await.is_some(), "repaired");
            assert!(ready(&bench, "git").await.is_some());
        }
    }
}

/// What one image saw, another one takes for granted, but not on and on.
#[tokio::test(start_paused = true)]
async fn a_lost_blob_that_images_share_is_noticed_as_soon() {
    let bench = Bench::with(moving).await;
    let image = build(&bench, "git").await;
    let shared = image.layers[0].digest;
    let deleted = bench.storage.delete(&Key::blob(shared)).await;
    assert!(deleted.expect("deletes"));
    advance(RECHECK * 2 / 5).await;
    let other = build(&bench, "htop").await;
    assert!(other.needs(&shared));
    assert!(bytes(&bench, &shared).await.is_none(), "confirmed recently");
    advance(RECHECK * 3 / 5).await;
    for name in ["htop", "git"] {
        assert!(ready(&bench, name).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_look_up_does_not_undo_a_newer_report() {
    let bench = Bench::with(moving).await;
    let handle = bench.builder.start(request("git"));
    let image = handle.wait().await.expect("builds");
    let target = handle.target();
    let mut warm = WarmImages::new(bench.builder.config());
    warm.insert(&handle, &image);
    let confirm = |warm: &mut WarmImages, begun| {
        warm.confirm(target, &image, begun);
        warm.get(target).expect("is warm").confirmed
    };
    let before = Instant::now();
    assert!(confirm(&mut warm, before));
    advance(Duration::from_millis(1)).await;
    warm.invalidate(&image.layers[0].digest);
    assert!(!confirm(&mut warm, before), "the look-up is older");
    advance(Duration::from_millis(1)).await;
    assert!(confirm(&mut warm, Instant::now()));

    warm.remove(target, &Digest::of(b"the key of an older image"));
    assert!(warm.get(target).is_some());
    warm.remove(target, &image.key);
    assert!(warm.get(target).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_dropped_from_the_cache_is_made_again() {
    let bench = Bench::with(|config| {
        moving(config);
        pinned(config);
    })
    .await;
    let image = build(&bench, "git").await;
    let key = Key::new(MANIFESTS, image.key);
    assert!(bench.storage.delete(&key).await.expect("deletes"));
    assert!(ready(&bench, "git").await.is_some(), "confirmed recently");
    advance(RECHECK).await;
    assert!(ready(&bench, "git").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn more_images_are_warm_than_builds_are_remembered() {
    let bench = Bench::with(|config| {
        moving(config);
        config.history = 1;
    })
    .await;
    for n in 0..5 {
        build(&bench, &format!("tool{n}")).await;
    }
    for n in 0..5 {
        assert!(ready(&bench, &format!("tool{n}")).await.is_some());
    }
}
