mod properties;
mod size_and_plan;

use std::sync::Arc;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::Popularity;
use crate::graph::tests::path;

fn budget(layers: usize) -> NonZeroUsize {
    NonZeroUsize::new(layers).unwrap()
}

fn dominator(popularity: &str, weight: Weight) -> Dominator {
    let popularity = Arc::new(Popularity::from_json(popularity.as_bytes()).unwrap());
    Dominator {
        popularity,
        weight,
        ..Dominator::default()
    }
}

/// A graph of (name, NAR size, references); closure sizes are computed.
fn graph(roots: &[&str], paths: &[(&str, u64, &[&str])]) -> ReferenceGraph {
    let entry = |&(name, size, references): &(&str, u64, &[&str])| {
        let references: Vec<String> = references.iter().map(|r| path(r)).collect();
        json!({ "path": path(name), "narSize": size, "references": references })
    };
    let entries: Vec<Value> = paths.iter().map(entry).collect();
    let roots: Vec<String> = roots.iter().map(|r| path(r)).collect();
    let json = json!({ "exportReferencesGraph": { "graph": roots }, "graph": entries });
    ReferenceGraph::parse(json.to_string().as_bytes()).unwrap()
}

/// A graph of paths 0 to n, whose entries are written in `order`; where that does not begin with 0,
/// references and roots are written backwards as well.
fn graph_in_order(
    order: &[usize],
    edges: &[(usize, usize)],
    roots: &[usize],
    sizes: &[u64],
    name: impl Fn(usize) -> String,
) -> ReferenceGraph {
    let paths = |mut of: Vec<usize>| -> Vec<String> {
        if order[0] != 0 {
            of.reverse();
        }
        of.into_iter().map(|i| path(&name(i))).collect()
    };
    let entry = |&i: &usize| {
        let references = edges.iter().filter(|edge| edge.0 == i);
        let references = paths(references.map(|edge| edge.1).collect());
        json!({ "path": path(&name(i)), "narSize": sizes[i], "references": references })
    };
    let entries: Vec<Value> = order.iter().map(entry).collect();
    let roots = paths(roots.to_vec());
    let json = json!({ "exportReferencesGraph": { "graph": roots }, "graph": entries });
    ReferenceGraph::parse(json.to_string().as_bytes()).unwrap()
}

/// The layers as sets of names, written `{A,B} {C}`, sorted.
fn sets(graph: &ReferenceGraph, plan: &LayerPlan) -> String {
    let name = |&path: &NodeId| graph.node(path).path.name();
    let set = |layer: &PlannedLayer| {
        let mut names: Vec<&str> = layer.paths.iter().map(name).collect();
        names.sort_unstable();
        format!("{{{}}}", names.join(","))
    };
    let mut sets: Vec<String> = plan.layers.iter().map(set).collect();
    sets.sort();
    sets.join(" ")
}

fn check(graph: &ReferenceGraph, plan: &LayerPlan, budget: usize) {
    assert!(
        plan.layers.len() <= budget,
        "{} layers for {budget}",
        plan.layers.len()
    );
    assert!(
        plan.layers_of_paths(graph).is_ok(),
        "every path in exactly one layer"
    );
    for layer in &plan.layers {
        assert!(!layer.paths.is_empty() && layer.paths.is_sorted());
        let size = layer
            .paths
            .iter()
            .fold(0u64, |sum, &p| sum.saturating_add(graph.node(p).nar_size));
        assert_eq!(layer.nar_size, size);
        assert!(!layer.reason.is_empty());
    }
    assert!(
        plan.layers
            .is_sorted_by_key(|layer| std::cmp::Reverse(layer.rating))
    );
}

/// The example that the original's source documents: E is popular, G is big.
fn example() -> ReferenceGraph {
    const KB: u64 = 100_000;
    graph(
        &["A", "B", "C", "D"],
        &[
            ("A", KB, &["E"]),
            ("B", KB, &["E"]),
            ("C", KB, &["D", "E"]),
            ("D", KB, &["F", "G"]),
            ("E", 1_000_000, &[]),
            ("F", 2_000_000, &[]),
            ("G", 150_000_000, &[]),
        ],
    )
}

#[rstest]
#[case::original_1(Weight::ClosureSize, 1, "{A,B,C,D,E,F,G}")]
#[case::original_2(Weight::ClosureSize, 2, "{A,B,C,E,G} {D,F}")]
#[case::original_3(Weight::ClosureSize, 3, "{A,B,E,G} {C} {D,F}")]
#[case::original_4(Weight::ClosureSize, 4, "{A,B,E} {C} {D,F} {G}")]
#[case::original_10(Weight::ClosureSize, 10, "{A} {B} {C} {D,F} {E} {G}")]
#[case::documented_1(Weight::NarSize, 1, "{A,B,C,D,E,F,G}")]
#[case::documented_2(Weight::NarSize, 2, "{A,B,C,D,E,F} {G}")]
#[case::documented_3(Weight::NarSize, 3, "{A,B,C,D,F} {E} {G}")]
#[case::documented_4(Weight::NarSize, 4, "{A,B,C} {D,F} {E} {G}")]
#[case::documented_10(Weight::NarSize, 10, "{A} {B} {C} {D,F} {E} {G}")]
fn the_originals_example(#[case] weight: Weight, #[case] layers: usize, #[case] expected: &str) {
    let graph = example();
    let plan = dominator(r#"{"E":100}"#, weight).plan(&graph, budget(layers));
    check(&graph, &plan, layers);
    assert_eq!(sets(&graph, &plan), expected);
}

#[test]
fn layers_say_why() {
    let graph = example();
    let strategy = dominator(r#"{"E":100}"#, Weight::NarSize);
    let reasons = |layers| -> Vec<String> {
        strategy
            .plan(&graph, budget(layers))
            .layers
            .into_iter()
            .map(|layer| layer.reason)
            .collect()
    };
    assert_eq!(
        reasons(4),
        [
            "G, whose closure is 150.0 MB",
            "E, which 100 packages refer to",
            "D, asked for, and the path only it needs",
            "the 3 lowest-rated groups, to keep within 4 layers: C, B, A",
        ]
    );
}

/// What is merged does not move up among the rest, although its ratings add up: as in the original.
#[test]
fn merging_takes_the_lowest_at_once() {
    let names = ["a", "b", "c", "d", "e"];
    let paths: Vec<(&str, u64, &[&str])> = names
        .iter()
        .zip([3, 4, 5, 6, 100])
        .map(|(&n, size)| (n, size, &[][..]))
        .collect();
    let graph = graph(&names, &paths);
    let plan = Dominator::default().plan(&graph, budget(3));
    assert_eq!(
        sets(&graph, &plan),
        "{a,b,c} {d} {e}",
        "re-sorting would have made {{c,d}}"
    );
    let order: Vec<u64> = plan.layers.iter().map(|layer| layer.rating).collect();
    assert_eq!(
        order,
        [100, 12, 6],
        "in the image it stands where its sum belongs"
    );
}

#[test]
fn equal_ratings_fall_by_path() {
    let names = ["d", "b", "a", "c"];
    let paths: Vec<(&str, u64, &[&str])> = names.iter().map(|&n| (n, 1, &[][..])).collect();
    let graph = graph(&names, &paths);
    let plan = Dominator::default().plan(&graph, budget(3));
    assert_eq!(sets(&graph, &plan), "{a,b} {c} {d}");
    let first: Vec<NodeId> = plan.layers.iter().map(|layer| layer.paths[0]).collect();
    assert_eq!(first, [0, 2, 3].map(NodeId::new));
}

#[rstest]
#[case::closures_of_100_mb_are_not_big(99_999_999, 1, "{a,b,c}")]
#[case::one_byte_more_is(100_000_000, 1, "{a} {b,c}")]
#[case::whatever_refers_to_big_is_big(100_000_001, 1, "{a} {b} {c}")]
#[case::popular_is_the_threshold(1, 100, "{a,b} {c}")]
#[case::less_is_not(1, 99, "{a,b,c}")]
fn set_apart(#[case] size: u64, #[case] popularity: u64, #[case] expected: &str) {
    let graph = graph(
        &["a"],
        &[("a", 1, &["b"]), ("b", 1, &["c"]), ("c", size, &[])],
    );
    let strategy = dominator(&format!(r#"{{"c":{popularity}}}"#), Weight::ClosureSize);
    assert_eq!(sets(&graph, &strategy.plan(&graph, budget(9))), expected);
}

#[test]
fn the_threshold_is_a_parameter() {
    let graph = graph(&["a"], &[("a", 1, &["b"]), ("b", 1, &[])]);
    let mut strategy = dominator(r#"{"b":999}"#, Weight::ClosureSize);
    assert_eq!(strategy.plan(&graph, budget(9)).layers.len(), 2);
    strategy.threshold = 1000;
    assert_eq!(strategy.plan(&graph, budget(9)).layers.len(), 1);
}

#[test]
fn degenerate_graphs() {
    let empty = graph(&[], &[]);
    assert_eq!(Dominator::default().plan(&empty, budget(1)).layers, []);
    let one = graph(&["a", "a"], &[("a", 0, &["a"])]);
    assert_eq!(
        sets(&one, &Dominator::default().plan(&one, budget(1))),
        "{a}"
    );
    let cycle = graph(
        &["a"],
        &[
            ("a", 1, &["b"]),
            ("b", 1, &["c", "d"]),
            ("c", 1, &["a"]),
            ("d", 1, &[]),
        ],
    );
    assert_eq!(
        sets(&cycle, &Dominator::default().plan(&cycle, budget(9))),
        "{a,b,c,d}"
    );
    let unreached = graph(
        &["a"],
        &[
            ("a", 1, &[]),
            ("b", 1, &["c"]),
            ("c", 1, &["b"]),
            ("d", 1, &["e"]),
            ("e", 1, &[]),
        ],
    );
    let plan = Dominator::default().plan(&unreached, budget(9));
    check(&unreached, &plan, 9);
    assert_eq!(sets(&unreached, &plan), "{a} {b,c} {d,e}");
    assert!(
        plan.layers
            .iter()
            .any(|layer| layer.reason.contains("no root leads to"))
    );
}

#[test]
fn sizes_near_two_to_the_64th() {
    let max = u64::MAX;
    let graph = graph(
        &["a", "b", "c"],
        &[
            ("a", max, &["d"]),
            ("b", max - 1, &[]),
            ("c", 1, &[]),
            ("d", max, &[]),
        ],
    );
    let popularity = format!(r#"{{"a":{max},"b":{max}}}"#);
    for weight in [Weight::ClosureSize, Weight::NarSize] {
        for layers in 1..=4 {
            check(
                &graph,
                &dominator(&popularity, weight).plan(&graph, budget(layers)),
                layers,
            );
        }
    }
    let plan = dominator(&popularity, Weight::NarSize).plan(&graph, budget(2));
    assert_eq!(
        sets(&graph, &plan),
        "{a} {b,c,d}",
        "ratings do not wrap around"
    );
}

#[test]
fn the_id_covers_everything() {
    let base = Dominator::default();
    let others = [
        Dominator {
            threshold: 99,
            ..base.clone()
        },
        Dominator {
            weight: Weight::NarSize,
            ..base.clone()
        },
        dominator(r#"{"a":2}"#, Weight::ClosureSize),
    ];
    for other in others {
        assert_ne!(other.id(), base.id());
    }
    assert_eq!(
        base.id(),
        "dominator/1 big=100000000 threshold=100 weight=closure-size \
         popularity=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "part of stored cache keys: a change makes every image new"
    );
}
