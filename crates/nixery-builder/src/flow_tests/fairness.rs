//! Clients that request many images, and those that request a few. The clock is paused.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::build;
use crate::client_id::ClientId;
use crate::config::BuilderConfig;
use crate::error::BuildError;
use crate::handle::{BuildHandle, BuildResult};
use crate::testing::{Fixture, pinned, request};

/// How long an evaluation takes.
const EVALUATION: Duration = Duration::from_secs(2);

fn client(last: u8) -> ClientId {
    ClientId::from_address([192, 0, 2, last].into())
}

async fn fixture(change: impl FnOnce(&mut BuilderConfig)) -> Fixture {
    let fixture = Fixture::with(change).await;
    *fixture.nix.evaluation_time.lock().expect("not poisoned") = EVALUATION;
    fixture
}

/// Requests as many names that do not exist. Returns the builds that were not refused.
fn flood(fixture: &Fixture, client: ClientId, names: usize) -> Vec<BuildHandle> {
    let names = 0..names;
    let builds = names.map(|n| {
        let request = request(&format!("missing{n}"));
        fixture.builder.start_for(request, client)
    });
    builds.filter(|build| build.result().is_none()).collect()
}

async fn timed(build: BuildHandle) -> (Duration, BuildResult) {
    let begun = Instant::now();
    let result = build.wait().await;
    (begun.elapsed(), result)
}

#[tokio::test(start_paused = true)]
async fn one_client_with_400_images_does_not_delay_another_ones() {
    for max_evaluations in [1, 2, 4] {
        let fixture = fixture(|config| {
            config.max_evaluations = max_evaluations;
            config.max_waiting_per_client = 400;
        })
        .await;
        let git = fixture.builder.start_for(request("git"), client(2));
        let (idle, _) = timed(git).await;
        let waiting = flood(&fixture, client(1), 400);
        assert_eq!(waiting.len(), 400);
        // Just begun: the worst moment to arrive.
        sleep(EVALUATION / 100).await;
        for name in ["htop", "nano", "vim"] {
            let other = fixture.builder.start_for(request(name), client(2));
            let (busy, result) = timed(other).await;
            result.expect("builds");
            assert!(busy <= 3 * idle, "{busy:?} instead of {idle:?}");
        }
        // Nothing is lost: all of them get their answer, in time.
        let begun = Instant::now();
        for build in waiting {
            build.wait().await.expect_err("does not exist");
        }
        let rounds = u32::try_from(400 / max_evaluations).expect("is small");
        assert!(begun.elapsed() <= EVALUATION * rounds);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_has_a_quota_of_waiting_builds() {
    let fixture = fixture(|config| config.max_evaluations = 1).await;
    let waiting = flood(&fixture, client(1), 400);
    assert_eq!(waiting.len(), 50);
    let refused = fixture.builder.start_for(request("git"), client(1));
    let error = refused.wait().await.expect_err("is refused");
    assert!(
        matches!(&*error, BuildError::QuotaExceeded { waiting: 50 }),
        "{error:?}"
    );
    assert!(
        fixture.builder.find(&refused.id()).is_none(),
        "it leaves no trace"
    );
    // Others have their own, and who has no name has none.
    assert_eq!(
        flood(&fixture, client(2), 51).len(),
        51,
        "all but one are joined"
    );
    let unnamed = fixture.builder.start(request("git"));
    // Who joins a build has no further one.
    let joined = fixture.builder.start_for(request("git"), client(1));
    assert_eq!(joined.id(), unnamed.id());
    waiting[0].wait().await.expect_err("does not exist");
    let accepted = fixture.builder.start_for(request("htop"), client(1));
    accepted.wait().await.expect("builds");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_joins_a_build_lends_it_its_place() {
    let fixture = fixture(|config| {
        config.max_evaluations = 1;
        config.max_waiting_per_client = 500;
    })
    .await;
    let waiting = flood(&fixture, client(1), 400);
    let last = fixture.builder.start_for(request("git"), client(1));
    sleep(EVALUATION / 2).await;
    let joined = fixture.builder.start_for(request("git"), client(2));
    assert_eq!(joined.id(), last.id());
    let (busy, result) = timed(joined).await;
    result.expect("builds");
    assert!(busy <= 2 * EVALUATION, "{busy:?}");
    assert!(waiting[5].result().is_none());
}

/// Realisations and spool files are shared as evaluations are.
#[tokio::test(start_paused = true)]
async fn realisations_are_served_in_rotation() {
    let fixture = Fixture::with(|config| {
        pinned(config);
        (config.max_evaluations, config.max_builds) = (100, 1);
    })
    .await;
    fixture.nix.gate.forget_permits(usize::MAX);
    let many: Vec<_> = (0..20)
        .map(|n| {
            fixture
                .builder
                .start_for(request(&format!("tool{n}")), client(1))
        })
        .collect();
    sleep(EVALUATION).await;
    let other = fixture.builder.start_for(request("git"), client(2));
    sleep(EVALUATION).await;
    fixture.nix.gate.add_permits(2);
    let other = timeout(Duration::from_secs(3600), other.wait()).await;
    other.expect("is the second one").expect("builds");
    let ended = many.iter().filter(|build| build.result().is_some()).count();
    assert!(ended <= 1, "{ended}");
    fixture.nix.gate.add_permits(20);
    for build in many {
        build.wait().await.expect("builds");
    }
}

/// Both images need the layer of `libc`. The build of the busy client comes first, but its place in
/// the queue is far behind.
#[tokio::test(start_paused = true)]
async fn a_shared_layer_is_packed_at_the_place_of_the_client_that_is_served_first() {
    const SECOND: Duration = Duration::from_secs(1);
    let fixture = fixture(|config| (config.max_evaluations, config.pack_threads) = (10, 1)).await;
    // Its many layers are being stored, or wait.
    let busy = fixture.builder.start_for(request("missing"), client(1));
    sleep(SECOND).await;
    let spooling = fixture.builder.engine().spooling.clone();
    let layers = (0..900).map(|_| {
        let (spooling, busy) = (spooling.clone(), busy.clone());
        tokio::spawn(async move {
            let permit = spooling.acquire(&busy).await.expect("open");
            sleep(SECOND).await;
            drop(permit);
        })
    });
    let layers: Vec<_> = layers.collect();
    *fixture.nix.evaluation_time.lock().expect("not poisoned") = Duration::ZERO;
    let first = fixture.builder.start_for(request("htop"), client(1));
    sleep(SECOND / 2).await;
    let other = fixture.builder.start_for(request("git"), client(2));
    let (elapsed, result) = timed(other).await;
    result.expect("builds");
    assert!(elapsed <= 3 * SECOND, "{elapsed:?}");
    assert!(first.result().is_none(), "it waits for the layers before");
    for layer in layers {
        layer.await.expect("stored");
    }
    first.wait().await.expect("builds");
    // Each image has a layer of its own and a root layer, and they share three layers.
    assert_eq!(fixture.packed(), 7);
}

/// The images of a moving source are evaluated in the background, in time.
#[tokio::test(start_paused = true)]
async fn cached_images_of_a_moving_source_stay_served_while_a_client_queues_hundreds() {
    let interval = Duration::from_secs(60);
    let fixture = fixture(|config| {
        config.eval_interval = interval;
        (config.max_evaluations, config.max_waiting) = (1, 60);
    })
    .await;
    let names = ["git", "htop", "nano"];
    for name in names {
        build(&fixture, name).await;
    }
    let _waiting = flood(&fixture, client(1), 60);
    for second in 0..20 * interval.as_secs() {
        // The flood goes on.
        if second % 10 == 0 {
            flood(&fixture, client(1), 60);
        }
        sleep(Duration::from_secs(1)).await;
        for name in names {
            let answer = fixture.builder.warm_image(&request(name)).await;
            let answer = answer.expect("the tag is latest");
            assert!(answer.is_some(), "{name} after {second} s");
        }
    }
    let evaluated = fixture.evaluations() as u64;
    assert!(evaluated >= 20 * 3, "{evaluated}");
}
