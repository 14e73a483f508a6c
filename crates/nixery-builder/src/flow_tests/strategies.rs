//! Layer strategies: replaced while the builder runs, and broken ones.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use nixery_core::{
    Dominator, LayerPlan, LayerStrategy, NodeId, PlannedLayer, ReferenceGraph, Size,
};
use rstest::rstest;

use super::build;
use crate::error::BuildError;
use crate::testing::{Fixture, pinned, request};

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
    let fixture = Fixture::with(|config| {
        pinned(config);
        config.recheck_after = Duration::from_secs(3600);
    })
    .await;
    let old = build(&fixture, "git").await;
    assert_eq!(
        old.layers.len(),
        5,
        "three packages, libc and the root layer"
    );
    assert!(
        fixture
            .builder
            .warm_image(&request("git"))
            .await
            .expect("a tag")
            .is_some()
    );

    fixture.builder.set_strategy(Arc::new(Few(1)));
    assert_eq!(fixture.builder.strategy().id(), "few 1");
    let ready = fixture.builder.warm_image(&request("git")).await;
    let ready = ready.expect("the tag is latest");
    assert!(ready.is_none(), "images of the old strategy are dropped");
    let new = build(&fixture, "git").await;
    assert_eq!((new.layers.len(), new.stats.from_cache), (2, false));
    assert_ne!((new.key, new.oci.digest), (old.key, old.oci.digest));
    let ready = fixture
        .builder
        .warm_image(&request("git"))
        .await
        .expect("the tag is latest")
        .expect("is warm");
    assert_eq!(ready.image.oci, new.oci);

    // With the old strategy again, the store still has the old image.
    fixture.builder.set_strategy(Arc::new(Size));
    let again = build(&fixture, "git").await;
    assert!(again.stats.from_cache);
    assert_eq!((again.key, &again.oci), (old.key, &old.oci));
}

#[tokio::test]
async fn a_running_build_keeps_its_strategy_and_its_image_is_not_kept_warm() {
    let fixture = Fixture::with(pinned).await;
    fixture.nix.gate.forget_permits(usize::MAX);
    let running = fixture.builder.start(request("git"));
    // The build waits for Nix: its key is known, its layers are not.
    while fixture.realisations() == 0 {
        tokio::task::yield_now().await;
    }
    fixture.builder.set_strategy(Arc::new(Few(1)));
    fixture.nix.gate.add_permits(9);
    let old = running.wait().await.expect("builds");
    assert_eq!(old.layers.len(), 5);
    assert!(
        fixture
            .builder
            .warm_image(&request("git"))
            .await
            .expect("a tag")
            .is_none()
    );
    let new = build(&fixture, "git").await;
    assert_eq!(new.layers.len(), 2);
    assert_ne!(new.key, old.key);

    // The image under the key is the one of the old strategy.
    fixture.builder.set_strategy(Arc::new(Size));
    let again = build(&fixture, "git").await;
    assert_eq!((again.key, again.layers.len()), (old.key, 5));
    assert!(again.stats.from_cache);
    fixture.builder.set_strategy(Arc::new(Dominator::default()));
    assert!(!build(&fixture, "git").await.stats.from_cache);
}

/// Strategies that break the contract of [`LayerStrategy`].
#[derive(Clone, Copy, Debug)]
enum Broken {
    PathLeftOut,
    PathTwice,
    UnknownPath,
    EmptyLayer,
    TooManyLayers,
}

impl LayerStrategy for Broken {
    fn id(&self) -> String {
        format!("broken {self:?}")
    }

    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        let layer = |paths: Vec<NodeId>| PlannedLayer {
            paths,
            nar_size: 1,
            rating: 1,
            reason: String::new(),
        };
        let all: Vec<NodeId> = graph.ids().collect();
        let layers = match self {
            Self::PathLeftOut => vec![layer(all[1..].to_vec())],
            Self::PathTwice => vec![layer(all), layer(vec![NodeId::new(0)])],
            Self::UnknownPath => {
                let beyond = NodeId::new(graph.len() as u32 + 5);
                vec![layer(all), layer(vec![beyond])]
            }
            Self::EmptyLayer => vec![layer(all), layer(vec![])],
            Self::TooManyLayers => {
                assert!(graph.len() > budget.get(), "one layer per path is too many");
                all.into_iter().map(|path| layer(vec![path])).collect()
            }
        };
        LayerPlan { layers }
    }
}

#[rstest]
#[case(Broken::PathLeftOut, "is in no layer")]
#[case(
    Broken::PathTwice,
    "is in more than one place, in layer 1 and in layer 2"
)]
#[case(
    Broken::UnknownPath,
    "layer 2 has a path that the image, with 4 paths, does not have"
)]
#[case(Broken::EmptyLayer, "layer 2 has no paths")]
#[case(Broken::TooManyLayers, "but at most 2 are allowed")]
#[tokio::test]
async fn a_broken_strategy_is_an_error_that_names_it(
    #[case] strategy: Broken,
    #[case] violation: &str,
) {
    let fixture = Fixture::with(|config| {
        config.strategy = Arc::new(strategy);
        config.budget = NonZeroUsize::new(3).expect("it is not 0");
    })
    .await;
    let error = fixture.builder.start(request("git")).wait().await;
    let error = error.expect_err("the plan is refused");
    assert!(
        matches!(*error, BuildError::InvalidPlan { .. }),
        "{error:?}"
    );
    assert_eq!(error.kind(), "invalid-layer-plan");
    let message = error.to_string();
    let names_it = format!("the layer strategy `broken {strategy:?}` returned an invalid plan");
    assert!(message.starts_with(&names_it), "{message}");
    assert!(message.contains(violation), "{message}");
    assert!(fixture.packed() <= 1, "at most the root layer is packed");
}
