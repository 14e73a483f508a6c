use std::num::NonZeroUsize;
use std::sync::Arc;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use nixery_core::{Dominator, LayerPlan, NodeId, PlannedLayer, Popularity, ReferenceGraph};

mod names;
mod properties;

/// Sorted by these letters in the order app-2, app-1, libc, tool.
fn path(letter: char, name: &str) -> String {
    format!("/nix/store/{}-{name}", letter.to_string().repeat(32))
}

fn budget(layers: usize) -> NonZeroUsize {
    NonZeroUsize::new(layers).unwrap()
}

/// Two weeks, two images: `app` (place 0), which is new in the second week, and `tool` (place 1).
fn example() -> Value {
    json!({
        "about": "fields that are not known are ignored",
        "paths": [
            [path('c', "libc-1"), 100, 40, [0]],
            [path('b', "app-1"), 50, 20, [0]],
            [path('d', "tool-1"), 30, 10, [0]],
            [path('a', "app-2"), 60, 25, [0]],
        ],
        "weeks": [[[1], [2]], [[3, 3], [2]]],
        "events": [
            [0, 7, [0, 1], [0]],
            [0, 9, [1], [1]],
            [1, 7, [0], [0]],
            [1, 9, [0, 1], [0, 1]],
        ],
    })
}

fn workload(json: &Value) -> Workload {
    Workload::from_json(json.to_string().as_bytes()).unwrap()
}

#[test]
fn a_workload_reports_its_size() {
    let workload = workload(&example());
    assert_eq!((workload.paths(), workload.weeks()), (4, 2));
    assert_eq!((workload.clients(), workload.pulls()), (2, 6));
}

#[test]
fn one_layer_per_path_by_hand() {
    let counts = replay(&workload(&example()), Grouping::OneLayerPerPath).unwrap();
    let expected = ReplayCounts {
        // Client 7 fetches libc, app-1 and tool, client 9 libc and tool; then each of them app-2.
        bytes: (40 + 20 + 10) + (40 + 10) + 25 + 25,
        layers_fetched: 3 + 2 + 1 + 1,
        layers_asked: (2 + 2) + 2 + 2 + (2 + 2),
        bytes_asked: (60 + 50) + 50 + 65 + (65 + 50),
        stored_bytes: 40 + 20 + 10 + 25,
        stored_layers: 4,
        // app-1 or app-2 is below libc. A libc on top of the other app, or at the bottom, is not
        // reused.
        chain_bytes: (20 + 40 + 40 + 10) + (40 + 10) + (25 + 40) + (25 + 40),
        images: 3,
        image_layers: 6,
        bytes_by_week: vec![120, 50],
    };
    assert_eq!(counts, expected);
    assert_eq!(counts.hit_rate(), 5.0 / 12.0);
    assert_eq!(counts.mean_layers(), 2.0);
}

#[test]
fn one_layer_by_hand() {
    let counts = replay(&workload(&example()), Grouping::OneLayer).unwrap();
    let expected = ReplayCounts {
        // Client 9 has the tool's layer when it pulls it again.
        bytes: (60 + 50) + 50 + 65 + 65,
        layers_fetched: 2 + 1 + 1 + 1,
        layers_asked: 6,
        bytes_asked: 340,
        stored_bytes: 60 + 50 + 65,
        stored_layers: 3,
        chain_bytes: (60 + 50) + 50 + 65 + 65,
        images: 3,
        image_layers: 3,
        bytes_by_week: vec![160, 130],
    };
    assert_eq!(counts, expected);
}

#[test]
fn a_strategy_by_hand() {
    let libc_is_popular = Dominator {
        popularity: Arc::new(Popularity::from_json(br#"{"libc-1": 500}"#).unwrap()),
        ..Dominator::default()
    };
    let workload = workload(&example());
    let counts = replay(&workload, Grouping::Strategy(&libc_is_popular, budget(94))).unwrap();
    // Here libc is below the others, so every image reuses it.
    let per_path = replay(&workload, Grouping::OneLayerPerPath).unwrap();
    let chain_bytes = per_path.bytes;
    assert_eq!(
        counts,
        ReplayCounts {
            chain_bytes,
            ..per_path
        }
    );

    let squeezed = replay(&workload, Grouping::Strategy(&libc_is_popular, budget(1))).unwrap();
    let one_layer = replay(&workload, Grouping::OneLayer).unwrap();
    assert_eq!(squeezed, one_layer);
}

#[test]
fn clients_delete_images_that_they_do_not_keep() {
    let mut json = example();
    json["events"] = json!([
        // Kept while another image is pulled, and not changed: app-1, not app-2.
        [0, 1, [0], [0]],
        [1, 1, [1], [0, 1]],
        [0, 1, [0], []],
        // Everything is deleted, and so is the place of an image that the client never had.
        [0, 1, [0], [1]],
        [0, 1, [0], [0]],
    ]);
    let counts = replay(&workload(&json), Grouping::OneLayerPerPath).unwrap();
    assert_eq!(counts.bytes, 60 + 10 + 60 + 60);
    assert_eq!(counts.bytes_by_week, [60 + 60 + 60, 10]);
    assert_eq!(counts.stored_bytes, 40 + 20 + 10, "no client pulled app-2");
}

#[rstest]
#[case(json!([]))]
#[case(json!([[1, 1, [], []]]))]
fn without_pulls_no_bytes_are_transferred(#[case] events: Value) {
    let mut json = example();
    json["events"] = events;
    for bound in [Grouping::OneLayer, Grouping::OneLayerPerPath] {
        let counts = replay(&workload(&json), bound).unwrap();
        assert_eq!((counts.bytes, counts.stored_layers), (0, 0));
        assert_eq!((counts.hit_rate(), counts.mean_layers()), (0.0, 0.0));
        assert_eq!(counts.bytes_by_week, [0, 0]);
    }
}

#[test]
fn an_image_of_nothing_and_sizes_out_of_bounds_are_counted() {
    let json = json!({
        "paths": [[path('a', "big"), u64::MAX, u64::MAX, []], [path('b', "bigger"), 1, u64::MAX, [0]]],
        "weeks": [[[], [1]]],
        "events": [[0, u64::MAX, [0, 1], []], [0, u64::MAX, [1], []]],
    });
    let counts = replay(&workload(&json), Grouping::OneLayer).unwrap();
    assert_eq!((counts.bytes, counts.layers_fetched), (u64::MAX, 2));
    assert_eq!(counts.images, 2);
}

/// A strategy with a fixed plan.
#[derive(Debug)]
struct Broken(Vec<Vec<u32>>);

impl LayerStrategy for Broken {
    fn id(&self) -> String {
        "broken/1".to_owned()
    }

    fn plan(&self, _: &ReferenceGraph, _: NonZeroUsize) -> LayerPlan {
        let layer = |paths: &Vec<u32>| PlannedLayer {
            paths: paths.iter().copied().map(NodeId::new).collect(),
            nar_size: 0,
            rating: 0,
            reason: String::new(),
        };
        LayerPlan {
            layers: self.0.iter().map(layer).collect(),
        }
    }
}

#[rstest]
#[case::lost(vec![vec![0]])]
#[case::twice(vec![vec![0, 1], vec![1]])]
#[case::unknown(vec![vec![0, 1, 2]])]
#[case::over_budget(vec![vec![0], vec![1], vec![]])]
fn a_strategy_with_an_invalid_plan_is_named(#[case] layers: Vec<Vec<u32>>) {
    let error = replay(
        &workload(&example()),
        Grouping::Strategy(&Broken(layers), budget(2)),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the strategy broken/1 does not put each path of an image with 2 paths into exactly one of at most 2 layers"
    );
}

#[rstest]
#[case::shape("/paths", json!({}), "a workload must be a JSON object")]
#[case::size("/paths/0/1", json!(-1), "a workload must be a JSON object")]
#[case::path("/paths/1/0", json!("libc"), "`paths` has no store path at position 1")]
#[case::twice("/paths/1/0", json!(path('c', "libc-1")), "libc-1 twice, the second time at position 1")]
#[case::reference("/paths/1/3/0", json!(4), "app-1 names path 4, but there are only 4, counted from 0")]
#[case::root("/weeks/1/0/0", json!(9), "image 0 of week 1 names path 9")]
#[case::week("/events/3/0", json!(2), "event 3 names week 2, but there are only 2")]
#[case::pulled("/events/0/2/1", json!(2), "event 0 names image 2, but there are only 2")]
#[case::kept("/events/2/3/0", json!(u64::MAX), "event 2 names image 18446744073709551615")]
fn wrong_workloads_are_refused(#[case] at: &str, #[case] value: Value, #[case] problem: &str) {
    let mut json = example();
    *json.pointer_mut(at).unwrap() = value;
    let error = Workload::from_json(json.to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().contains(problem), "{error}");
}
