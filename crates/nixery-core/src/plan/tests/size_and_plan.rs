//! The strategies `size` and `plan`: small graphs by table, and what holds of every plan.

use proptest::prelude::*;

use super::properties::synthetic;
use super::*;
use crate::{ClusterPlan, PlannedPackage};

/// A plan of (name, cluster, samples), made from 4,096 samples.
fn clustered(packages: &[(&str, &str, u32)]) -> Clustered {
    let package = |&(name, cluster, samples): &(&str, &str, u32)| PlannedPackage {
        name: name.to_owned(),
        cluster: cluster.to_owned(),
        samples,
    };
    let plan = ClusterPlan::new(String::new(), 4096, packages.iter().map(package)).unwrap();
    Clustered {
        plan: Arc::new(plan),
    }
}

/// The layers in their order, each written as [`sets`] does.
fn in_order(graph: &ReferenceGraph, plan: &LayerPlan) -> String {
    let one = |layer: &PlannedLayer| {
        let layers = vec![layer.clone()];
        sets(graph, &LayerPlan { layers })
    };
    plan.layers.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// A chain of 31 small paths, `p1` needing itself alone and `p31` all, and large ones beside it.
fn chain() -> ReferenceGraph {
    let names: Vec<String> = (1..=31).map(|i| format!("p{i}")).collect();
    let references: Vec<Vec<&str>> = (0..31)
        .map(|i| (i > 0).then(|| &*names[i - 1]).into_iter().collect())
        .collect();
    let mut paths: Vec<(&str, u64, &[&str])> = names
        .iter()
        .zip(&references)
        .map(|(name, references)| (&**name, (256 << 10) - 1, &references[..]))
        .collect();
    paths.push(("a", 256 << 10, &[]));
    paths.push(("b", 900 << 10, &[]));
    paths.push(("c", 400 << 10, &["p2"]));
    graph(&["p31", "a", "b", "c"], &paths)
}

/// `p<from>` to `p<to>`, and others, as a set.
fn set(from: usize, to: usize, others: &[&str]) -> String {
    let mut names: Vec<String> = (from..=to).map(|i| format!("p{i}")).collect();
    names.extend(others.iter().map(|&name| name.to_owned()));
    names.sort();
    format!("{{{}}}", names.join(","))
}

#[rstest]
#[case::all_large_alone(7, &[set(1, 2, &[]), set(3, 8, &[]), set(9, 30, &[]), set(31, 31, &[]), "{a}".into(), "{b}".into(), "{c}".into()])]
#[case::two_large_alone(6, &[set(1, 2, &["a"]), set(3, 8, &[]), set(9, 30, &[]), set(31, 31, &[]), "{b}".into(), "{c}".into()])]
#[case::one_large_alone(5, &[set(1, 2, &["a"]), set(3, 8, &["c"]), set(9, 30, &[]), set(31, 31, &[]), "{b}".into()])]
#[case::four_tails(4, &[set(1, 2, &["a", "b"]), set(3, 8, &["c"]), set(9, 30, &[]), set(31, 31, &[])])]
#[case::three_tails(3, &[set(1, 2, &["a", "b"]), set(3, 8, &["c"]), set(9, 31, &[])])]
#[case::two_tails(2, &[set(1, 2, &["a", "b"]), set(3, 31, &["c"])])]
#[case::one_layer(1, &[set(1, 31, &["a", "b", "c"])])]
fn size_by_table(#[case] layers: usize, #[case] expected: &[String]) {
    let graph = chain();
    let plan = Size.plan(&graph, budget(layers));
    check(&graph, &plan, layers);
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(sets(&graph, &plan), expected.join(" "));
}

/// Larger first, but one that needs much later, and by name where all else is equal.
#[test]
fn size_in_order() {
    const MIB: u64 = 1 << 20;
    let mut paths: Vec<(&str, u64, &[&str])> = vec![
        ("large", 9 * MIB, &[]),
        ("z-2", 2 * MIB, &[]),
        ("y-10", 2 * MIB, &[]),
        ("y-9", 2 * MIB, &[]),
        ("busy", 11 * MIB, &["large", "z-2", "y-9", "y-10", "tiny"]),
        ("tiny", 1, &[]),
    ];
    let plan_of = |paths: &[(&str, u64, &[&str])]| {
        let graph = graph(&["busy"], paths);
        in_order(&graph, &Size.plan(&graph, budget(94)))
    };
    // 9 MiB · 0.776 / 0.224 is more than 11 MiB · 0.668 / 0.332.
    let expected = "{large} {busy} {y-10} {y-9} {z-2} {tiny}";
    assert_eq!(plan_of(&paths), expected);
    paths.reverse();
    assert_eq!(plan_of(&paths), expected);
}

#[test]
fn size_says_why() {
    let graph = chain();
    let reasons = |layers| {
        let plan = Size.plan(&graph, budget(layers));
        let mut reasons: Vec<String> = plan.layers.into_iter().map(|layer| layer.reason).collect();
        reasons.sort();
        reasons
    };
    assert_eq!(
        reasons(5),
        [
            "1 path too small to be alone or beyond the budget, needing 31 paths or more each",
            "22 paths too small to be alone or beyond the budget, needing 9 to 30 paths each",
            "3 paths too small to be alone or beyond the budget, needing at most 2 paths each",
            "7 paths too small to be alone or beyond the budget, needing 3 to 8 paths each",
            "b, large enough to be alone with 921.6 kB",
        ]
    );
    assert_eq!(reasons(1), ["34 paths, since the budget is one layer"]);
}

/// Names with versions and outputs, known and unknown, small and large.
fn known() -> (ReferenceGraph, Clustered) {
    const MIB: u64 = 1 << 20;
    let graph = graph(
        &["app-1"],
        &[
            ("glibc-2.38", 30 * MIB, &[]),
            ("bash-5.2", MIB, &["glibc-2.38", "readline-8.2"]),
            ("readline-8.2", MIB / 2, &["glibc-2.38"]),
            ("git-2.44", 20 * MIB, &["bash-5.2"]),
            ("git-2.44-doc", 5 * MIB, &[]),
            ("perl-5.38", 4 * MIB, &[]),
            ("rare-1", 3 * MIB, &[]),
            ("rarer-1", 2 * MIB, &[]),
            ("app-1", 7 * MIB, &["git-2.44"]),
            ("conf", 1, &[]),
            ("script", (256 << 10) - 1, &["bash-5.2"]),
            ("blob", 256 << 10, &[]),
        ],
    );
    let plan = clustered(&[
        ("glibc", "glibc", 4096),
        ("bash", "bash", 3000),
        ("readline", "bash", 3100),
        ("git", "git", 300),
        ("git-doc", "git-doc", 299),
        ("perl", "perl", 60),
        ("rare", "rare", 59),
        ("rarer", "rarer", 14),
        ("other", "other", 4000),
    ]);
    (graph, plan)
}

#[rstest]
#[case::buckets(
    10,
    "{app-1} {bash-5.2,readline-8.2} {blob} {conf,script} {git-2.44-doc} {git-2.44} {glibc-2.38} {perl-5.38} {rare-1} {rarer-1}"
)]
#[case::tails(
    9,
    "{app-1} {bash-5.2,readline-8.2} {blob,conf,rarer-1,script} {git-2.44-doc} {git-2.44} {glibc-2.38} {perl-5.38} {rare-1}"
)]
#[case::fewer(
    6,
    "{app-1,blob,conf,rarer-1,script} {bash-5.2,readline-8.2} {git-2.44-doc,perl-5.38} {git-2.44} {glibc-2.38} {rare-1}"
)]
#[case::only_tails(
    4,
    "{app-1,blob,conf,rarer-1,script} {bash-5.2,git-2.44,glibc-2.38,readline-8.2} {git-2.44-doc,perl-5.38} {rare-1}"
)]
#[case::three_tails(
    3,
    "{app-1,blob,conf,rare-1,rarer-1,script} {bash-5.2,git-2.44,glibc-2.38,readline-8.2} {git-2.44-doc,perl-5.38}"
)]
#[case::two_tails(
    2,
    "{app-1,blob,conf,git-2.44-doc,perl-5.38,rare-1,rarer-1,script} {bash-5.2,git-2.44,glibc-2.38,readline-8.2}"
)]
#[case::one_layer(
    1,
    "{app-1,bash-5.2,blob,conf,git-2.44,git-2.44-doc,glibc-2.38,perl-5.38,rare-1,rarer-1,readline-8.2,script}"
)]
fn plan_by_table(#[case] layers: usize, #[case] expected: &str) {
    let (graph, strategy) = known();
    let plan = strategy.plan(&graph, budget(layers));
    check(&graph, &plan, layers);
    assert_eq!(sets(&graph, &plan), expected);
}

#[test]
fn plan_in_order_and_why() {
    let (graph, strategy) = known();
    let shown = |layers| {
        let plan = strategy.plan(&graph, budget(layers));
        let reasons: Vec<String> = plan.layers.into_iter().map(|layer| layer.reason).collect();
        reasons
    };
    assert_eq!(
        shown(10),
        [
            "glibc-2.38, in 100 % of the plan's images",
            "git-2.44, in 7.3 % of the plan's images",
            "git-2.44-doc, in 7.3 % of the plan's images",
            "bash-5.2, readline-8.2, one cluster of the plan (bash), in 73 % to 76 % of its images",
            "app-1, 7.3 MB, which the plan does not know",
            "perl-5.38, in 1.5 % of the plan's images",
            "rare-1, in 1.4 % of the plan's images",
            "rarer-1, in 0.34 % of the plan's images",
            "blob, 262.1 kB, which the plan does not know",
            "2 paths below 262.1 kB which the plan does not know",
        ]
    );
    assert_eq!(
        shown(4),
        [
            "4 paths of the smallest layers, to keep within 4 layers, with packages that 7.3 % or more of the plan's images have",
            "2 paths of the smallest layers, to keep within 4 layers, with packages that 1.5 % to 7.3 % of the plan's images have",
            "5 paths of the smallest layers, to keep within 4 layers, with packages that less than 0.37 % of the plan's images have",
            "1 path of the smallest layers, to keep within 4 layers, with packages that 0.37 % to 1.5 % of the plan's images have",
        ]
    );
}

#[test]
fn ids_cover_everything() {
    assert_eq!(Size.id(), "size/1", "part of stored cache keys");
    let id = clustered(&[("a", "a", 1)]).id();
    assert_eq!(
        id, "plan/1 sha256:dbb64f17efeb16bd987a0cc020af3b73cbc52e39beb839b90937c9660bb2c83b",
        "part of stored cache keys: a change makes every image new"
    );
    assert_ne!(id, clustered(&[("a", "a", 2)]).id());
}

/// The synthetic graph's strategies: without data, and with a plan of most of its names.
fn strategies(paths: u64) -> Vec<Arc<dyn LayerStrategy>> {
    let name = |i: u64| format!("p{i:05}");
    let known = (0..paths).filter(|i| i % 7 != 6);
    let packages = known.map(|i| PlannedPackage {
        name: name(i),
        cluster: name(i - i % 7 % 3),
        samples: (4096 / (i + 1)) as u32,
    });
    let plan = Arc::new(ClusterPlan::new(String::new(), 4096, packages).unwrap());
    vec![Arc::new(Size), Arc::new(Clustered { plan })]
}

#[test]
fn any_budget_up_to_dockers_limit() {
    let (graph, _) = synthetic(600);
    for strategy in strategies(600) {
        for layers in 1..=125 {
            check(&graph, &strategy.plan(&graph, budget(layers)), layers);
        }
    }
}

/// Pinned: if this fails, plans of existing images change and clients fetch layers again. If that
/// is intended, raise the version in the strategy's id and put the new digest here.
#[test]
fn plans_of_2000_paths() {
    let (graph, _) = synthetic(2000);
    let digests: Vec<String> = strategies(2000)
        .iter()
        .map(|strategy| {
            let plan = strategy.plan(&graph, budget(94));
            check(&graph, &plan, 94);
            let line = |l: &PlannedLayer| format!("{:?} {} {}", l.paths, l.rating, l.reason);
            let lines: Vec<String> = plan.layers.iter().map(line).collect();
            nixery_manifest::Digest::of(lines.join("\n").as_bytes()).to_string()
        })
        .collect();
    assert_eq!(
        digests,
        [
            "sha256:88bc6740595b1328f7738859a00a52ceab529231f1789316122812463bcec8a6",
            "sha256:6ad462b5f7a3d61b1073d517b37ee37b9c3e056c422c9f999cdf4be2b7c4bd5e",
        ]
    );
}

#[test]
fn degenerate_graphs() {
    let cycle: &[(&str, u64, &[&str])] = &[
        ("a", 1, &["b"]),
        ("b", 1 << 20, &["a"]),
        ("c", u64::MAX, &["c"]),
        ("d", u64::MAX, &[]),
    ];
    // A cluster of a cycle, one of the largest sizes, and paths that no plan knows.
    let clusters = clustered(&[
        ("a", "a", 4096),
        ("b", "a", 4000),
        ("c", "c", 300),
        ("d", "c", 0),
    ]);
    let unknown = clustered(&[("other", "other", 1)]);
    for strategy in [&Size as &dyn LayerStrategy, &clusters, &unknown] {
        for layers in [1, 2, 94] {
            assert_eq!(strategy.plan(&graph(&[], &[]), budget(layers)).layers, []);
            let graph = graph(&["a"], cycle);
            check(&graph, &strategy.plan(&graph, budget(layers)), layers);
        }
    }
}

proptest! {
    #[test]
    fn every_path_in_one_layer_whatever_the_order(
        edges in prop::collection::vec((0..40usize, 0..40usize), 0..90),
        sizes in prop::collection::vec(prop_oneof![Just(0u64), 0..3u64, 200_000..300_000u64, Just(u64::MAX)], 40),
        known in prop::collection::vec(prop::option::of((0..40usize, 0..=4096u32)), 40),
        order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle(),
        layers in prop_oneof![1..8usize, 8..50usize],
    ) {
        let name = |i: usize| format!("n{i:02}");
        let make = |order: &[usize]| graph_in_order(order, &edges, &[], &sizes, name);
        let mut least = vec![None; 40];
        let packages: Vec<PlannedPackage> = known
            .iter()
            .enumerate()
            .filter_map(|(i, known)| {
                let (cluster, samples) = (*known)?;
                let cluster = name(*least[cluster].get_or_insert(i));
                Some(PlannedPackage { name: name(i), cluster, samples })
            })
            .collect();
        let plan = Arc::new(ClusterPlan::new(String::new(), 4096, packages).unwrap());
        let straight = make(&(0..40).collect::<Vec<_>>());
        for strategy in [&Size as &dyn LayerStrategy, &Clustered { plan }] {
            let plan = strategy.plan(&straight, budget(layers));
            check(&straight, &plan, layers);
            prop_assert_eq!(strategy.plan(&make(&order), budget(layers)), plan);
        }
    }
}
