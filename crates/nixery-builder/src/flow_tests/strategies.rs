//! A builder whose layer strategy is replaced while it runs.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use nixery_core::{Dominator, LayerPlan, LayerStrategy, ReferenceGraph, Size};

use super::build;
use crate::testing::{Bench, pinned, request};

/// As [`Size`], with at most this many layers.
#[derive(Debug)]
struct Few(usize);

impl LayerStrategy for Few {
    fn id(&self) -> String {
        format!("few {}", self.0)
    }

    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        Size.plan(
            graph,
            NonZeroUsize::new(self.0).map_or(budget, |few| few.min(budget)),
        )
    }
}

#[tokio::test]
async fn another_strategy_gives_other_images_under_other_keys() {
    let bench = Bench::with(|config| {
        pinned(config);
        config.recheck_after = Duration::from_secs(3600);
    })
    .await;
    let old = build(&bench, "git").await;
    assert_eq!(
        old.layers.len(),
        5,
        "three packages, libc and the root layer"
    );
    assert!(bench.builder.ready(&request("git")).await.is_some());

    bench.builder.set_strategy(Arc::new(Few(1)));
    assert_eq!(bench.builder.strategy().id(), "few 1");
    let ready = bench.builder.ready(&request("git")).await;
    assert!(ready.is_none(), "what is in memory is of the old strategy");
    let new = build(&bench, "git").await;
    assert_eq!((new.layers.len(), new.stats.from_cache), (2, false));
    assert_ne!((new.key, new.oci.digest), (old.key, old.oci.digest));
    let ready = bench.builder.ready(&request("git")).await.expect("is warm");
    assert_eq!(ready.image.oci, new.oci);

    // Back again, the store still has it.
    bench.builder.set_strategy(Arc::new(Size));
    let again = build(&bench, "git").await;
    assert!(again.stats.from_cache);
    assert_eq!((again.key, &again.oci), (old.key, &old.oci));
}

#[tokio::test]
async fn a_build_that_runs_keeps_to_its_strategy_and_is_not_kept_warm() {
    let bench = Bench::with(pinned).await;
    bench.nix.gate.forget_permits(usize::MAX);
    let running = bench.builder.request(request("git"));
    // It waits for Nix: its key is known, its layers are not.
    while bench.realisations() == 0 {
        tokio::task::yield_now().await;
    }
    bench.builder.set_strategy(Arc::new(Few(1)));
    bench.nix.gate.add_permits(9);
    let old = running.wait().await.expect("builds");
    assert_eq!(old.layers.len(), 5);
    assert!(bench.builder.ready(&request("git")).await.is_none());
    let new = build(&bench, "git").await;
    assert_eq!(new.layers.len(), 2);
    assert_ne!(new.key, old.key);

    // Under its key there is what the key says.
    bench.builder.set_strategy(Arc::new(Size));
    let again = build(&bench, "git").await;
    assert_eq!((again.key, again.layers.len()), (old.key, 5));
    assert!(again.stats.from_cache);
    bench.builder.set_strategy(Arc::new(Dominator::default()));
    assert!(!build(&bench, "git").await.stats.from_cache);
}
