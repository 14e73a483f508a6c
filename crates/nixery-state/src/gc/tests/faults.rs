//! A store that fails, or a collector that dies, at each call.

use crate::record::MANIFESTS;
use std::sync::Arc;

use nixery_storage::{Key, MemoryStorage, Storage};
use rstest::rstest;
use tokio::time::advance;

use crate::gc::{GcMode, collect};
use crate::testing::stepped::Stepped;
use crate::testing::world::{
    DAY, GRACE, Made, RETENTIONS, census, is_there, memory, sweep, unused_for,
};

struct Images {
    kept: Made,
    dropped: Made,
    gone: Made,
}

/// One image in use, one to be dropped, one whose blobs are to be deleted.
async fn store() -> (Arc<MemoryStorage>, Images) {
    let storage = memory();
    let images = Images {
        kept: Made::new("kept", &["shared", "a"]),
        dropped: Made::new("dropped", &["shared", "b"]),
        gone: Made::new("gone", &["shared", "c"]),
    };
    images.gone.store(&*storage).await;
    storage
        .delete(&Key::new(MANIFESTS, images.gone.key))
        .await
        .expect("deleted");
    images.dropped.store(&*storage).await;
    advance(2 * DAY).await;
    images.kept.store(&*storage).await;
    (storage, images)
}

#[rstest]
#[case::for_a_moment(true)]
#[case::for_good(false)]
#[tokio::test(start_paused = true)]
async fn a_failure_at_any_call_breaks_nothing(#[case] recovers: bool) {
    let policy = unused_for(DAY);
    let mut finished = 0;
    for fails_at in 0.. {
        let (storage, images) = store().await;
        let failing = Stepped::failing(storage.clone(), fails_at, recovers);
        let result = collect(failing.clone(), &policy, &RETENTIONS, GcMode::Sweep, |_| ()).await;
        assert!(images.kept.is_whole(&*storage).await, "call {fails_at}");
        assert!(images.dropped.is_whole(&*storage).await, "call {fails_at}");
        assert!(is_there(&*storage, Key::new(MANIFESTS, images.kept.key)).await);

        // Later collections do the rest.
        advance(2 * GRACE).await;
        sweep(&storage, &policy).await.expect("works again");
        assert!(images.kept.is_whole(&*storage).await, "call {fails_at}");
        advance(2 * GRACE).await;
        sweep(&storage, &policy).await.expect("works again");
        assert!(images.kept.is_whole(&*storage).await, "call {fails_at}");
        let census = census(&*storage).await;
        assert_eq!(census["layers"], 4, "call {fails_at}: {census:?}");
        assert_eq!(
            (census["uses"], census["leases"]),
            (0, 0),
            "call {fails_at}: {census:?}"
        );

        if failing.calls() <= fails_at {
            assert!(result.is_ok());
            finished = fails_at;
            break;
        }
    }
    assert!(finished > 30, "it made only {finished} calls");
}

/// As with `kill -9`: nothing runs after the step.
#[tokio::test(start_paused = true)]
async fn a_collector_killed_at_any_step_breaks_nothing() {
    let policy = unused_for(DAY);
    let mut steps = 0;
    loop {
        let (storage, images) = store().await;
        let stepped = Stepped::new(storage.clone());
        let mut collector = Box::pin(collect(
            stepped,
            &policy,
            &RETENTIONS,
            GcMode::Sweep,
            |_| (),
        ));
        let mut ended = false;
        for _ in 0..steps {
            let polled = futures::poll!(&mut collector);
            ended |= polled.is_ready();
            if ended {
                break;
            }
            // Spawned tasks run, and pauses end.
            tokio::task::yield_now().await;
            advance(std::time::Duration::from_millis(1)).await;
        }
        drop(collector);
        assert!(images.kept.is_whole(&*storage).await, "step {steps}");
        assert!(images.dropped.is_whole(&*storage).await, "step {steps}");
        advance(2 * DAY).await;
        sweep(&storage, &unused_for(9 * DAY)).await.expect("works");
        assert!(images.kept.is_whole(&*storage).await, "step {steps}");
        if ended {
            break;
        }
        steps += 1;
    }
    assert!(steps > 30, "it took only {steps} steps");
}
