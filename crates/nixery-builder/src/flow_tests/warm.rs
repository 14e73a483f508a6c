//! Warm images, which answer without a build, and for how long. The clock is paused.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use nixery_core::PackageSource;
use nixery_manifest::Digest;
use nixery_state::record::MANIFESTS;
use nixery_storage::{Key, Storage};
use tokio::time::{Instant, advance, sleep};

use super::{build, bytes, fail};
use crate::builder::WarmImage;
use crate::config::{BuilderConfig, STALE_INTERVALS};
use crate::handle::BuildState;
use crate::progress::Phase;
use crate::testing::{Fixture, git, pinned, request};
use crate::warm::WarmImages;

const INTERVAL: Duration = Duration::from_secs(60);
const RECHECK: Duration = Duration::from_secs(10);
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// Configures a moving source that is evaluated once in an interval.
fn moving(config: &mut BuilderConfig) {
    config.eval_interval = INTERVAL;
    config.recheck_after = RECHECK;
    config.failure_ttl = FAILURE_TTL;
}

async fn ready(fixture: &Fixture, name: &str) -> Option<WarmImage> {
    let image = fixture.builder.warm_image(&request(name)).await;
    image.expect("the tag is latest")
}

#[tokio::test(start_paused = true)]
async fn within_the_interval_nothing_is_evaluated() {
    let fixture = Fixture::with(moving).await;
    assert!(ready(&fixture, "git").await.is_none());
    let built = build(&fixture, "git").await;
    for _ in 0..5 {
        advance(INTERVAL / 6).await;
        let ready = ready(&fixture, "git").await.expect("is warm");
        assert_eq!(ready.image.oci, built.oci);
        assert!(ready.refresh.is_none());
    }
    assert_eq!(fixture.evaluations(), 1);
    // With any spelling.
    assert!(ready(&fixture, "git/git").await.is_some());
    assert!(ready(&fixture, "htop").await.is_none());
}

/// A branch may move while it is fetched.
#[tokio::test(start_paused = true)]
async fn the_interval_of_a_branch_begins_before_it_is_fetched() {
    let configure = |config: &mut BuilderConfig| {
        moving(config);
        git(config);
    };
    let fixture = Fixture::with(configure).await;
    *fixture.nix.fetch_time.lock().expect("not poisoned") = INTERVAL / 2;
    build(&fixture, "git").await;
    let fresh = ready(&fixture, "git").await.expect("is warm");
    assert!(fresh.refresh.is_none());
    advance(INTERVAL / 2 + Duration::from_secs(1)).await;
    let old = ready(&fixture, "git").await.expect("is warm");
    assert!(old.refresh.is_some());
}

#[tokio::test(start_paused = true)]
async fn after_the_interval_the_old_image_answers_while_one_evaluation_runs() {
    let fixture = Fixture::with(moving).await;
    let old = build(&fixture, "git").await;
    fixture.nix.edits.store(1, Ordering::SeqCst);
    fixture.nix.gate.forget_permits(usize::MAX);
    advance(INTERVAL).await;

    let answers = join_all((0..100).map(|_| ready(&fixture, "git"))).await;
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
    let answer = ready(&fixture, "git").await.expect("is warm");
    assert_eq!(answer.image.oci, old.oci, "the build still runs");
    assert_eq!(answer.refresh.expect("is tried").id(), refresh.id());

    fixture.nix.gate.add_permits(1);
    let new = refresh.wait().await.expect("builds");
    assert_ne!(new.oci, old.oci);
    // The evaluation is an interval old: the image answers, and the source is evaluated again.
    let answer = ready(&fixture, "git").await.expect("is warm");
    assert_eq!(answer.image.oci, new.oci);
    assert_eq!(fixture.evaluations(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_too_old_does_not_answer() {
    let fixture = Fixture::with(moving).await;
    build(&fixture, "git").await;
    advance(INTERVAL * STALE_INTERVALS - Duration::from_millis(1)).await;
    let last = ready(&fixture, "git").await.expect("is warm");
    fixture.nix.unreadable.store(true, Ordering::SeqCst);
    let refresh = last.refresh.expect("is due");
    refresh.wait().await.expect_err("fails");
    advance(Duration::from_millis(1)).await;
    assert!(ready(&fixture, "git").await.is_none());
    fail(&fixture, "git").await;
    fixture.nix.unreadable.store(false, Ordering::SeqCst);
    advance(FAILURE_TTL).await;
    build(&fixture, "git").await;
    assert!(ready(&fixture, "git").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_broken_for_a_short_time_breaks_no_pull_and_its_failure_is_listed() {
    let fixture = Fixture::with(moving).await;
    let old = build(&fixture, "git").await;
    fixture.nix.unreadable.store(true, Ordering::SeqCst);
    advance(INTERVAL).await;
    let first = ready(&fixture, "git").await.expect("is warm");
    let refresh = first.refresh.expect("is due");
    refresh.wait().await.expect_err("fails");
    assert!(fixture.builder.find(&refresh.id()).is_some());

    // The evaluation is tried again, as often as other failures are.
    for seconds in 1..=20 {
        advance(Duration::from_secs(1)).await;
        let answer = ready(&fixture, "git").await.expect("is warm");
        assert_eq!(answer.image.oci, old.oci);
        if let Some(refresh) = answer.refresh {
            refresh.wait().await.expect_err("fails");
        }
        assert_eq!(fixture.evaluations(), 2 + seconds / 5);
    }

    fixture.nix.unreadable.store(false, Ordering::SeqCst);
    advance(FAILURE_TTL).await;
    let answer = ready(&fixture, "git").await.expect("is warm");
    answer.refresh.expect("is due").wait().await.expect("works");
    assert!(
        ready(&fixture, "git")
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
        let fixture = Fixture::with(moving).await;
        fixture.nix.gate.forget_permits(usize::MAX);
        let handle = fixture.builder.start(request("git"));
        let mut progress = handle.progress();
        let realising = progress.wait_for(|progress| progress.phase == Phase::Realise);
        drop(realising.await.expect("runs"));
        advance(INTERVAL * (STALE_INTERVALS + 5)).await;
        fixture.nix.gate.add_permits(1);
        handle.wait().await.expect("builds");
        advance(age).await;
        let answer = ready(&fixture, "git").await;
        assert_eq!(answer.is_some_and(|it| it.refresh.is_some()), answers);
    }
}

#[tokio::test(start_paused = true)]
async fn with_an_endless_interval_a_source_is_evaluated_once() {
    let fixture = Fixture::with(|config| {
        moving(config);
        config.eval_interval = Duration::MAX;
    })
    .await;
    build(&fixture, "git").await;
    advance(INTERVAL * STALE_INTERVALS).await;
    let answer = ready(&fixture, "git").await.expect("is warm");
    assert!(answer.refresh.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_source_is_evaluated_in_the_background_however_many_builds_wait() {
    let fixture = Fixture::with(|config| {
        moving(config);
        (config.max_waiting, config.max_evaluations) = (2, 1);
    })
    .await;
    build(&fixture, "git").await;
    advance(INTERVAL).await;
    *fixture.nix.evaluation_time.lock().expect("not poisoned") = INTERVAL;
    let waiting = ["htop", "nano"].map(|name| fixture.builder.start(request(name)));
    fail(&fixture, "vim").await;
    let answer = ready(&fixture, "git").await.expect("is warm");
    let begun = Instant::now();
    answer.refresh.expect("is due").wait().await.expect("works");
    assert_eq!(begun.elapsed(), INTERVAL, "at once, beside the first one");
    for build in waiting {
        build.wait().await.expect("builds");
    }
}

/// The old image answers for longer than ten intervals while the evaluation waits for others, and
/// no longer than that.
#[tokio::test(start_paused = true)]
async fn an_old_image_answers_while_its_evaluation_waits_in_the_queue() {
    let fixture = Fixture::with(|config| {
        moving(config);
        config.max_evaluations = 1;
    })
    .await;
    for name in ["git", "hello", "nano"] {
        build(&fixture, name).await;
    }
    // All evaluations in the background take long, and so does one that a client waits for.
    let long = INTERVAL * STALE_INTERVALS;
    *fixture.nix.evaluation_time.lock().expect("not poisoned") = long;
    sleep(INTERVAL).await;
    let _requested = fixture.builder.start(request("htop"));
    for name in ["hello", "nano", "git"] {
        let answer = ready(&fixture, name).await.expect("is warm");
        assert!(answer.refresh.is_some(), "{name}");
    }
    // Ten intervals after the last evaluation, `hello` is being evaluated: its build is waited for.
    sleep(long - INTERVAL).await;
    assert!(ready(&fixture, "hello").await.is_none());
    let queued = ready(&fixture, "git").await.expect("its evaluation waits");
    // One is served after the other, each for ten intervals: `git` is the last one.
    sleep(INTERVAL + long).await;
    let answer = ready(&fixture, "git").await.expect("its evaluation waits");
    assert_eq!(answer.image.oci, queued.image.oci);
    // Its evaluation has begun: nine intervals remain.
    sleep(long).await;
    assert!(ready(&fixture, "git").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_changes_nothing_is_not_remembered() {
    let fixture = Fixture::with(|config| {
        moving(config);
        config.history = 2;
    })
    .await;
    for name in ["git", "htop"] {
        build(&fixture, name).await;
    }
    let ids = || -> Vec<_> {
        let recent = fixture.builder.recent();
        recent.into_iter().map(|build| build.id).collect()
    };
    let builds = ids();
    advance(INTERVAL).await;
    for name in ["git", "htop"] {
        let answer = ready(&fixture, name).await.expect("is warm");
        let refresh = answer.refresh.expect("is due");
        // Its log can be read while it runs.
        assert!(fixture.builder.find(&refresh.id()).is_some());
        assert!(refresh.wait().await.expect("works").stats.from_cache);
        fixture.builder.drain().await;
    }
    assert_eq!(ids(), builds);

    fixture.nix.edits.store(1, Ordering::SeqCst);
    advance(INTERVAL).await;
    let answer = ready(&fixture, "git").await.expect("is warm");
    let refresh = answer.refresh.expect("is due");
    refresh.wait().await.expect("builds");
    fixture.builder.drain().await;
    assert_eq!(ids(), [refresh.id(), builds[0]]);
    let state = fixture.builder.recent().remove(0).state;
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
    let fixture = Fixture::with(|config| {
        moving(config);
        config.eval_interval = Duration::ZERO;
    })
    .await;
    for evaluations in 1..=3 {
        assert!(ready(&fixture, "git").await.is_none());
        build(&fixture, "git").await;
        assert_eq!(fixture.evaluations(), evaluations);
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
async fn an_immutable_source_is_never_evaluated_again() {
    let fixture = Fixture::with(|config| {
        moving(config);
        pinned(config);
        config.eval_interval = Duration::ZERO;
    })
    .await;
    let built = build(&fixture, "git").await;
    for _ in 0..3 {
        advance(INTERVAL * STALE_INTERVALS * 10).await;
        let ready = ready(&fixture, "git").await.expect("is warm");
        assert_eq!(ready.image.oci, built.oci);
        assert!(ready.refresh.is_none());
    }
    assert_eq!(fixture.evaluations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_blob_is_found_when_it_is_reported_or_after_the_recheck_time() {
    for source in [moving, |config: &mut BuilderConfig| {
        moving(config);
        pinned(config);
    }] {
        let fixture = Fixture::with(source).await;
        let image = build(&fixture, "git").await;
        let layer = image.layers[0].digest;
        for reported in [true, false] {
            let deleted = fixture.storage.delete(&Key::blob(layer)).await;
            assert!(deleted.expect("deletes"));
            assert!(ready(&fixture, "git").await.is_some(), "confirmed recently");
            if reported {
                fixture.builder.report_missing(&layer);
            } else {
                advance(RECHECK).await;
            }
            let answers = join_all((0..10).map(|_| ready(&fixture, "git"))).await;
            assert!(answers.iter().all(Option::is_none));
            assert_eq!(build(&fixture, "git").await.oci, image.oci);
            assert!(bytes(&fixture, &layer).await.is_some(), "repaired");
            assert!(ready(&fixture, "git").await.is_some());
        }
    }
}

/// Images share what is confirmed, but no longer than the recheck time.
#[tokio::test(start_paused = true)]
async fn a_lost_blob_that_images_share_is_found_as_soon() {
    let fixture = Fixture::with(moving).await;
    let image = build(&fixture, "git").await;
    let shared = image.layers[0].digest;
    let deleted = fixture.storage.delete(&Key::blob(shared)).await;
    assert!(deleted.expect("deletes"));
    advance(RECHECK * 2 / 5).await;
    let other = build(&fixture, "htop").await;
    assert!(other.needs(&shared));
    assert!(
        bytes(&fixture, &shared).await.is_none(),
        "confirmed recently"
    );
    advance(RECHECK * 3 / 5).await;
    for name in ["htop", "git"] {
        assert!(ready(&fixture, name).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_look_up_does_not_undo_a_newer_report() {
    let fixture = Fixture::with(moving).await;
    let handle = fixture.builder.start(request("git"));
    let image = handle.wait().await.expect("builds");
    let target = handle.target();
    let mut warm = WarmImages::new(fixture.builder.config());
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
async fn an_image_whose_record_is_deleted_is_built_again() {
    let fixture = Fixture::with(|config| {
        moving(config);
        pinned(config);
    })
    .await;
    let image = build(&fixture, "git").await;
    let key = Key::new(MANIFESTS, image.key);
    assert!(fixture.storage.delete(&key).await.expect("deletes"));
    assert!(ready(&fixture, "git").await.is_some(), "confirmed recently");
    advance(RECHECK).await;
    assert!(ready(&fixture, "git").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn more_images_are_warm_than_builds_are_remembered() {
    let fixture = Fixture::with(|config| {
        moving(config);
        config.history = 1;
    })
    .await;
    for n in 0..5 {
        build(&fixture, &format!("tool{n}")).await;
    }
    for n in 0..5 {
        assert!(ready(&fixture, &format!("tool{n}")).await.is_some());
    }
}
