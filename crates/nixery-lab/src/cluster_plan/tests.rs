//! The plan as a whole; other tests are beside the code.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn sample(packages: &[(&str, u64, &[u32])], samples: &[&[u32]]) -> PlanSample {
    PlanSample {
        packages: packages
            .iter()
            .map(|&(name, nar_size, references)| SamplePackage {
                name: name.to_owned(),
                nar_size,
                references: references.to_vec(),
            })
            .collect(),
        samples: samples.iter().map(|roots| roots.to_vec()).collect(),
    }
}

fn clusters(sample: &PlanSample) -> Vec<(String, String, u32)> {
    let plan = packages(sample, &mut |_| ()).expect("a plan");
    plan.into_iter()
        .map(|package| (package.name, package.cluster, package.samples))
        .collect()
}

const MIB: u64 = 1 << 20;

#[test]
fn names_that_are_always_together_share_a_cluster() {
    let set = sample(
        &[
            ("b", 100, &[1]),
            ("a", 200, &[]),
            ("c", 100, &[]),
            ("never", 1, &[]),
        ],
        &[&[0], &[0], &[2], &[2]],
    );
    let expected = [
        ("a", "a", 2),
        ("b", "a", 2),
        ("c", "c", 2),
        ("never", "never", 0),
    ];
    let expected = expected.map(|(name, cluster, n)| (name.to_owned(), cluster.to_owned(), n));
    assert_eq!(clusters(&set), expected);
}

/// A merge would put the name that all images need into two layers instead of one: with and without
/// the name that half of them need.
#[rstest]
#[case::cheap(10_000, true)]
#[case::expensive(10 * MIB, false)]
fn an_expensive_merge_is_not_made(#[case] size: u64, #[case] together: bool) {
    let set = sample(
        &[("all", size, &[]), ("half", 1000, &[0])],
        &[&[0], &[0], &[0], &[1], &[1], &[1]],
    );
    let found = clusters(&set);
    assert_eq!(found[1].1 == "all", together, "{found:?}");
}

#[rstest]
#[case::fits(12 * MIB, 12 * MIB, true)]
#[case::too_large_together(12 * MIB, 12 * MIB + 1, false)]
#[case::too_large_alone(65 * MIB, 1, false)]
fn clusters_have_a_size_limit(#[case] one: u64, #[case] other: u64, #[case] together: bool) {
    let set = sample(&[("a", one, &[1]), ("b", other, &[0])], &[&[0], &[1]]);
    assert_eq!(clusters(&set)[1].1 == "a", together);
}

/// Versions of a package are one name: present with either, as large as the larger.
#[test]
fn packages_of_one_name_are_one() {
    let set = sample(
        &[
            ("lib", 5, &[]),
            ("lib", 20 * MIB, &[]),
            ("a", 5 * MIB, &[0]),
        ],
        &[&[2], &[1]],
    );
    let found = clusters(&set);
    assert_eq!(found.len(), 2);
    assert_eq!((&*found[1].0, found[1].2), ("lib", 2));
    assert_eq!(found[0].1, "a");
    assert_eq!(found[1].1, "lib", "25 MiB are too many");
}

#[rstest]
#[case::no_samples(sample(&[("a", 1, &[])], &[]), "from 1 to 65000 samples, not from 0")]
#[case::many_samples(sample(&[("a", 1, &[])], &vec![&[0][..]; 65_001]), "not from 65001")]
#[case::reference(sample(&[("a", 1, &[1])], &[&[0]]), "\"a\" refers to package 1, but there are only 1")]
#[case::root(sample(&[("a", 1, &[])], &[&[0], &[7]]), "sample 1 refers to package 7")]
fn invalid_samples_are_refused(#[case] set: PlanSample, #[case] message: &str) {
    let error = build(&set, "r".into(), &mut |_| ()).expect_err("refused");
    assert!(error.to_string().contains(message), "{error}");
}

#[rstest]
#[case::no_json("x")]
#[case::list("[]")]
#[case::no_samples(r#"{"packages":[]}"#)]
#[case::negative(r#"{"packages":[["a",-1,[]]],"samples":[]}"#)]
#[case::long(r#"{"packages":[["a",1,[],0]],"samples":[]}"#)]
fn other_json_is_refused(#[case] json: &str) {
    let error = PlanSample::from_json(json.as_bytes()).expect_err("refused");
    assert!(matches!(error, BuildPlanError::Malformed(_)), "{error}");
}

#[test]
fn the_largest_sizes_are_accepted() {
    let set = sample(
        &[
            ("a", u64::MAX, &[1]),
            ("b", u64::MAX, &[0]),
            ("c", 64 * MIB, &[2]),
        ],
        &[&[0], &[1, 2]],
    );
    assert_eq!(clusters(&set).len(), 3);
}

#[test]
fn progress_goes_through_all_stages() {
    let set = sample(&[("a", 5, &[1]), ("b", 5, &[])], &[&[0]]);
    let mut stages = Vec::new();
    build(&set, "r".into(), &mut |at| {
        assert!(at.done <= at.total);
        stages.push(at.stage);
    })
    .expect("a plan");
    stages.dedup();
    use PlanStage::*;
    assert_eq!(stages, [Samples, Closures, Neighbours, Pairs, Merging]);
}

fn any_sample() -> impl Strategy<Value = PlanSample> {
    (2..30u32).prop_flat_map(|n| {
        let references = prop::collection::vec(0..n, 0..4);
        let size = prop_oneof![0..1000u64, 0..30 * MIB, Just(u64::MAX)];
        let package = ("[a-e][a-e]?", size, references);
        let package = package.prop_map(|(name, nar_size, references)| SamplePackage {
            name,
            nar_size,
            references,
        });
        let packages = prop::collection::vec(package, n as usize);
        let samples = prop::collection::vec(prop::collection::vec(0..n, 0..3), 1..40);
        (packages, samples).prop_map(|(packages, samples)| PlanSample { packages, samples })
    })
}

proptest! {
    /// [`ClusterPlan`] accepts the plan; it has every name, keeps the limits, and is deterministic.
    #[test]
    fn plans_are_valid_and_complete(set in any_sample()) {
        let plan = build(&set, "r".into(), &mut |_| ()).expect("a plan");
        let again = build(&set, "r".into(), &mut |_| ()).expect("a plan");
        prop_assert_eq!(plan.digest(), again.digest());
        let index = SampleIndex::new(&set, &mut Reporter(&mut |_| ())).expect("it is valid");
        let names: Vec<String> = plan.iter().map(|package| package.name).collect();
        prop_assert_eq!(&names, &index.names);
        let mut sizes = std::collections::BTreeMap::<u32, Vec<u64>>::new();
        for (name, size) in index.names.iter().zip(&index.nar_sizes) {
            let (cluster, _) = plan.get(name).expect("it is there");
            sizes.entry(cluster).or_default().push(*size);
        }
        for sizes in sizes.values().filter(|sizes| sizes.len() > 1) {
            prop_assert!(sizes.iter().sum::<u64>() <= LARGEST_CLUSTER);
        }
    }

    /// The order of packages and roots does not matter.
    #[test]
    fn the_order_of_packages_is_irrelevant(set in any_sample(), shift in 0..30usize) {
        let n = set.packages.len();
        let moved = |index: u32| ((index as usize + n - shift % n) % n) as u32;
        let mut rotated = set.clone();
        rotated.packages.rotate_left(shift % n);
        for package in &mut rotated.packages {
            package.references = package.references.iter().rev().map(|&i| moved(i)).collect();
        }
        for roots in &mut rotated.samples {
            *roots = roots.iter().rev().map(|&root| moved(root)).collect();
        }
        prop_assert_eq!(clusters(&set), clusters(&rotated));
    }

    /// The order of the samples does not matter.
    #[test]
    fn the_order_of_samples_is_irrelevant(mut set in any_sample()) {
        let before = clusters(&set);
        set.samples.reverse();
        prop_assert_eq!(before, clusters(&set));
    }
}
