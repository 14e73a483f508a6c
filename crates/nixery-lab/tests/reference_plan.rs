//! Cluster plans against those of their specification, which is another program.

use std::collections::{BTreeMap, BTreeSet};

use nixery_lab::cluster_plan::{PlanSample, build};
use serde::Deserialize;

const REFERENCE: &str = include_str!("data/reference-plan.json");

#[derive(Deserialize)]
struct Reference {
    /// Per name the least name of its cluster.
    clusters: BTreeMap<String, String>,
}

/// The members of each name's cluster.
fn members(clusters: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut by_cluster = BTreeMap::<&str, BTreeSet<&str>>::new();
    for (name, cluster) in clusters {
        by_cluster.entry(cluster).or_default().insert(name);
    }
    let of = |cluster: &String| by_cluster[cluster.as_str()].clone();
    clusters
        .iter()
        .map(|(name, cluster)| (name.as_str(), of(cluster)))
        .collect()
}

/// Ties, which the specification decides by rounding errors, may fall differently here, and what
/// follows from them.
#[test]
fn nearly_all_names_have_the_same_company() {
    let reference: Reference = serde_json::from_str(REFERENCE).expect("the reference");
    let sample = PlanSample::from_json(REFERENCE.as_bytes()).expect("a sample");
    let plan = build(&sample, "reference".into(), &mut |_| ()).expect("a plan");
    let clusters: BTreeMap<String, String> = plan
        .iter()
        .map(|package| (package.name, package.cluster))
        .collect();
    let (ours, theirs) = (members(&clusters), members(&reference.clusters));
    assert_eq!(ours.len(), theirs.len());
    let other: Vec<&str> = ours
        .iter()
        .filter(|(name, members)| theirs[*name] != **members)
        .map(|(name, _)| *name)
        .collect();
    assert!(
        other.len() * 100 <= ours.len() * 4,
        "{} of {} names are in other company: {other:?}",
        other.len(),
        ours.len()
    );
}

/// Pinned: a plan is the same on every machine, and with every version that does not mean to change
/// it.
#[test]
fn the_plan_is_pinned() {
    let sample = PlanSample::from_json(REFERENCE.as_bytes()).expect("a sample");
    let plan = build(&sample, "reference".into(), &mut |_| ()).expect("a plan");
    assert_eq!(
        plan.digest().to_string(),
        "sha256:0275b228406dc15a90b9b97489a97681170624586c997b05dd15f2d811bb1155",
        "if this was meant, every plan changes: say so in the CHANGELOG"
    );
}
