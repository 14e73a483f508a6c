//! Properties of any bytes as a workload.

use nixery_core::{DEFAULT_BUDGET, Dominator, Size};
use nixery_lab::replay::{Grouping, Workload, replay};

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    let workload = match Workload::from_json(data) {
        Ok(workload) => workload,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let dominator = Dominator::default();
    for grouping in [
        Grouping::Strategy(&Size, DEFAULT_BUDGET),
        Grouping::Strategy(&dominator, DEFAULT_BUDGET),
    ] {
        let outcome = replay(&workload, grouping).expect("the strategies keep their contract");
        assert!(outcome.layers_fetched <= outcome.layers_asked);
        assert!(outcome.bytes <= outcome.bytes_asked);
        assert!((0.0..=1.0).contains(&outcome.hit_rate()));
    }
}
