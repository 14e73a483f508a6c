//! Properties of any bytes as one of the inputs of plans: narinfo files, samples, popularity data,
//! and what an interrupted run of a command has saved.

use nixery_core::{ClusterPlan, Popularity};
use nixery_lab::cluster_plan::{PathCollection, PlanSample, build};
use nixery_lab::popularity::PopularityCounter;
use nixery_lab::reference_sink::ReferenceSink;

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    if let Ok(collection) = PathCollection::from_state(data) {
        reads_back(&collection);
        assert!(collection.packages() <= collection.paths());
        builds(&collection.to_sample(16, 0));
    }
    if let Ok(counter) = PopularityCounter::from_state(data) {
        reads_back(&counter);
        counts(&counter);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        narinfo(text);
    }
    if let Ok(popularity) = Popularity::from_json(data) {
        let digest = popularity.digest();
        assert_ne!(popularity.across_versions().digest(), digest);
    }
    if let Ok(sample) = PlanSample::from_json(data) {
        builds(&sample);
    }
}

/// What is saved can be read, and is then saved as the same bytes.
fn reads_back<S: ReferenceSink>(sink: &S) {
    let state = sink.to_state();
    let read = S::from_state(&state).expect("what is saved reads back");
    assert_eq!(read.to_state(), state);
    assert_eq!(read.paths(), sink.paths());
}

fn counts(counter: &PopularityCounter) {
    Popularity::from_json(&counter.to_json()).expect("what is counted is popularity data");
}

fn narinfo(text: &str) {
    let (mut counter, mut collection) = (PopularityCounter::default(), PathCollection::default());
    let counted = counter.add_narinfo(text).is_ok();
    let collected = collection.add_narinfo(text).is_ok();
    // A collection needs a size as well.
    assert!(counted || !collected);
    assert_eq!(counter.paths(), usize::from(counted));
    assert_eq!(collection.paths(), usize::from(collected));
    counts(&counter);
    if collected {
        reads_back(&collection);
        builds(&collection.to_sample(8, 1));
    }
}

/// A sample is refused, or makes a plan that reads back.
fn builds(sample: &PlanSample) {
    match build(sample, "revision".to_owned(), &mut |_| ()) {
        Ok(plan) => {
            let read = ClusterPlan::from_bytes(&plan.to_bytes()).expect("a plan reads back");
            assert_eq!(read.to_text(), plan.to_text());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
