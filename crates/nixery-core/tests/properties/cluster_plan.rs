//! What holds of any bytes as a cluster plan's text or file.

use nixery_core::ClusterPlan;

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    if let Ok(plan) = ClusterPlan::from_bytes(data) {
        reads_back(&plan);
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match ClusterPlan::from_text(text) {
        Ok(plan) => {
            assert_eq!(plan.to_text(), text, "a plan has one text");
            reads_back(&plan);
            invariants(&plan);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn reads_back(plan: &ClusterPlan) {
    let read = ClusterPlan::from_bytes(&plan.to_bytes()).expect("what is written reads back");
    assert_eq!(&read, plan);
    assert_eq!(read.digest(), plan.digest());
    let packages = plan.iter();
    let made = ClusterPlan::new(plan.revision().to_owned(), plan.samples(), packages);
    assert_eq!(&made.expect("its own packages make it"), plan);
}

fn invariants(plan: &ClusterPlan) {
    assert!(plan.clusters() <= plan.len());
    assert!(plan.samples() > 0);
    let mut count = 0;
    for package in plan.iter() {
        count += 1;
        let (cluster, samples) = plan.get(&package.name).expect("it is in the plan");
        assert_eq!(plan.cluster_name(cluster), package.cluster);
        assert_eq!(samples, package.samples);
        assert!(samples <= plan.samples());
        assert!(package.cluster <= package.name, "named for its least name");
    }
    assert_eq!(count, plan.len());
}
