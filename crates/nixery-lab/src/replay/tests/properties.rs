//! Properties of every workload.

use proptest::prelude::*;

use super::{path as store_path, *};
use nixery_core::ByteSize;

/// Groups by size only, so that images of equal paths are grouped equally, even if their roots
/// differ.
#[derive(Debug)]
struct BySize;

impl LayerStrategy for BySize {
    fn id(&self) -> String {
        "by-size/1".to_owned()
    }

    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        let mut layers: Vec<PlannedLayer> = Vec::new();
        for remainder in 0..budget.get() as u64 {
            let paths: Vec<_> = graph
                .ids()
                .filter(|&path| graph.node(path).nar_size % budget.get() as u64 == remainder)
                .collect();
            if !paths.is_empty() {
                layers.push(PlannedLayer {
                    nar_size: 0,
                    rating: 0,
                    reason: ByteSize(remainder).to_string(),
                    paths,
                });
            }
        }
        LayerPlan { layers }
    }
}

const PATHS: usize = 8;
const WEEKS: usize = 3;
const IMAGES: usize = 4;

fn workloads() -> impl Strategy<Value = Workload> {
    parts().prop_map(|parts| Workload::from_parts(&parts).unwrap())
}

fn parts() -> impl Strategy<Value = WorkloadParts> {
    let path = (1u64..50, 1u64..50, prop::collection::vec(0..PATHS, 0..3));
    let image = prop::collection::vec(0..PATHS, 0..3);
    let names = || prop::collection::vec(0..IMAGES, 0..4);
    let event = (0..WEEKS, 0u64..3, names(), names());
    (
        prop::collection::vec(path, PATHS),
        prop::collection::vec(prop::collection::vec(image, IMAGES), WEEKS),
        prop::collection::vec(event, 0..12),
    )
        .prop_map(|(paths, weeks, events)| {
            let letters = ['a', 'b', 'c', 'd', 'f', 'g', 'h', 'i'];
            let paths: Vec<_> = (letters.into_iter().zip(paths))
                .map(|(letter, (nar, size, references))| {
                    (store_path(letter, "p"), nar, size, references)
                })
                .collect();
            let json = json!({ "paths": paths, "weeks": weeks, "events": events });
            serde_json::from_value(json).unwrap()
        })
}

proptest! {
    #[test]
    fn every_grouping_is_between_the_bounds(workload in workloads(), layers in 1usize..6) {
        let least = replay(&workload, Grouping::OneLayerPerPath).unwrap();
        let most = replay(&workload, Grouping::OneLayer).unwrap();
        let by_size = replay(&workload, Grouping::Strategy(&BySize, budget(layers))).unwrap();
        let dominator = replay(&workload, Grouping::Strategy(&Dominator::default(), budget(layers))).unwrap();
        prop_assert!(least.bytes <= by_size.bytes && by_size.bytes <= most.bytes);
        // Images with equal paths may have different roots, and then different layers. More bytes
        // than those of one layer are transferred.
        prop_assert!(least.bytes <= dominator.bytes);
        for counts in [&least, &by_size, &dominator, &most] {
            prop_assert_eq!(counts.bytes_by_week.iter().sum::<u64>(), counts.bytes);
            prop_assert!(counts.bytes <= counts.chain_bytes);
            prop_assert!(counts.chain_bytes <= counts.bytes_asked);
            prop_assert!(counts.layers_fetched <= counts.layers_asked);
            prop_assert!(counts.stored_bytes <= counts.bytes, "each is fetched at least once");
            prop_assert!(least.stored_bytes <= counts.stored_bytes);
            prop_assert_eq!(counts.images, least.images);
            prop_assert_eq!(counts.bytes_asked, least.bytes_asked);
        }
    }

    #[test]
    fn threads_change_nothing(workload in workloads(), threads in 2usize..5) {
        let strategy = Dominator::default();
        let grouping = || Grouping::Strategy(&strategy, budget(3));
        prop_assert_eq!(
            replay_with(&workload, grouping(), 1).unwrap(),
            replay_with(&workload, grouping(), threads).unwrap()
        );
    }

    #[test]
    fn keeping_all_is_keeping_each(mut parts in parts(), named in any::<bool>()) {
        if named {
            parts.names = vec![1, 0, 1, 1];
        }
        let replayed = |keeps: Option<Vec<u64>>| {
            let mut parts = parts.clone();
            for event in &mut parts.events {
                event.3 = keeps.clone();
            }
            let workload = Workload::from_parts(&parts).unwrap();
            replay(&workload, Grouping::Strategy(&BySize, budget(2))).unwrap()
        };
        prop_assert_eq!(replayed(None), replayed(Some((0..IMAGES as u64).collect())));
    }
}
