//! What holds of every plan, and plans of larger graphs pinned.

use nixery_manifest::Digest;
use petgraph::algo::dominators::simple_fast;
use petgraph::graph::NodeIndex;
use proptest::prelude::*;

use super::*;

/// A graph as package sets have them: private helpers near each path, a few popular ones for all.
pub(super) fn synthetic(paths: u64) -> (ReferenceGraph, String) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below.max(1)
    };
    let name = |i: u64| path(&format!("p{i:05}-1.{i}"));
    let mut entries = Vec::new();
    for i in 0..paths {
        let near = (0..=random(2)).map(|_| i.saturating_sub(1 + random(8)));
        let mut references: Vec<u64> = near.collect();
        references.extend((0..random(3)).map(|_| random(i.min(40))));
        let references: Vec<String> = references.into_iter().map(name).collect();
        let magnitude = 8 + random(12);
        entries.push(
            json!({ "path": name(i), "narSize": random(1 << magnitude), "references": references }),
        );
    }
    let roots: Vec<String> = (0..paths / 20).map(|i| name(paths - 1 - i)).collect();
    let popularity: serde_json::Map<String, Value> = (0..40)
        .map(|i| (format!("p{i:05}-1.{i}"), json!(2000 / (i + 1))))
        .collect();
    let json = json!({ "exportReferencesGraph": { "graph": roots }, "graph": entries }).to_string();
    (
        ReferenceGraph::parse(json.as_bytes()).unwrap(),
        Value::from(popularity).to_string(),
    )
}

/// The original's steps one by one, with petgraph's dominators and a merge of the first two at a
/// time.
fn step_by_step(strategy: &Dominator, graph: &ReferenceGraph, budget: usize) -> Vec<Vec<usize>> {
    let mut edges = graph.to_petgraph();
    let root = edges.add_node(NodeId::new(graph.len() as u32));
    for entry in graph.entry_points() {
        edges.add_edge(root, NodeIndex::new(entry.index()), ());
    }
    for (id, node) in graph.iter() {
        let index = id.index();
        if node.closure_size > 100_000_000
            || strategy.popularity.get(&node.path) >= strategy.threshold
        {
            edges.add_edge(root, NodeIndex::new(index), ());
        }
    }
    let tree = simple_fast(&edges, root);
    let mut layers: Vec<(u128, usize, Vec<usize>)> = Vec::new();
    for head in tree.immediately_dominated_by(root) {
        let mut contents = vec![head];
        let mut next = 0;
        while next < contents.len() {
            contents.extend(tree.immediately_dominated_by(contents[next]));
            next += 1;
        }
        let mut contents: Vec<usize> = contents.into_iter().map(NodeIndex::index).collect();
        contents.sort_unstable();
        let size = contents.iter().fold(0u128, |sum, &path| {
            let node = &graph.nodes()[path];
            sum + u128::from(match strategy.weight {
                Weight::ClosureSize => node.closure_size,
                Weight::NarSize => node.nar_size,
            })
        });
        let popularity = strategy.popularity.get(&graph.nodes()[head.index()].path);
        layers.push((
            size.saturating_mul(u128::from(popularity)),
            head.index(),
            contents,
        ));
    }
    layers.sort();
    while layers.len() > budget {
        let (_, _, lowest) = layers.remove(0);
        layers[0].2.extend(lowest);
        layers[0].2.sort_unstable();
    }
    let mut layers: Vec<Vec<usize>> = layers
        .into_iter()
        .map(|(_, _, contents)| contents)
        .collect();
    layers.sort();
    layers
}

fn contents(plan: &LayerPlan) -> Vec<Vec<usize>> {
    let mut layers: Vec<Vec<usize>> = plan
        .layers
        .iter()
        .map(|layer| layer.paths.iter().map(|path| path.index()).collect())
        .collect();
    layers.sort();
    layers
}

/// Pinned: if this fails, plans of existing images change and clients fetch layers again. If that
/// is intended, raise the version in `Dominator::id` and put the new digest here.
#[rstest]
#[case(
    Weight::ClosureSize,
    94,
    "884bddd7fc354ee7411744716f17d7619484e05a952df3a9f9045a323bbef274"
)]
#[case(
    Weight::ClosureSize,
    9999,
    "97d95a3694634fc2bf7cc096c0d49e35b370862f92a165cb8e6600ef2042b717"
)]
#[case(
    Weight::NarSize,
    94,
    "7865b8f85d519c308c99c312f2386f7b7fe679b538042abe9680831bb5aed4cd"
)]
fn a_plan_of_2000_paths(#[case] weight: Weight, #[case] layers: usize, #[case] expected: &str) {
    let (graph, popularity) = synthetic(2000);
    let plan = dominator(&popularity, weight).plan(&graph, budget(layers));
    check(&graph, &plan, layers);
    assert_eq!(
        contents(&plan),
        step_by_step(&dominator(&popularity, weight), &graph, layers)
    );
    let lines: Vec<String> = plan
        .layers
        .iter()
        .map(|l| format!("{:?} {} {}", l.paths, l.rating, l.reason))
        .collect();
    assert_eq!(
        Digest::of(lines.join("\n").as_bytes()).to_string(),
        format!("sha256:{expected}"),
        "{} layers",
        lines.len()
    );
}

#[test]
fn any_budget_up_to_dockers_limit() {
    let (graph, popularity) = synthetic(600);
    for weight in [Weight::ClosureSize, Weight::NarSize] {
        for layers in 1..=125 {
            let plan = dominator(&popularity, weight).plan(&graph, budget(layers));
            check(&graph, &plan, layers);
            assert_eq!(plan.layers.len(), layers, "there are more groups than that");
        }
    }
}

#[test]
fn threads_plan_alike() {
    let (graph, popularity) = synthetic(600);
    let strategy: Arc<dyn LayerStrategy> = Arc::new(dominator(&popularity, Weight::ClosureSize));
    let json = graph.to_json();
    let plan = || strategy.plan(&ReferenceGraph::parse(&json).unwrap(), budget(50));
    let expected = plan();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(plan)).collect();
        assert!(
            threads
                .into_iter()
                .all(|thread| thread.join().unwrap() == expected)
        );
    });
}

proptest! {
    #[test]
    fn order_of_the_input_is_irrelevant(
        edges in prop::collection::vec((0..20usize, 0..20usize), 0..60),
        roots in prop::collection::vec(0..20usize, 0..5),
        sizes in prop::collection::vec(prop_oneof![Just(0u64), 0..3u64, 90_000_000..110_000_000u64, Just(u64::MAX)], 20),
        counts in prop::collection::vec(prop_oneof![0..3u64, 99..102u64], 20),
        order in Just((0..20usize).collect::<Vec<_>>()).prop_shuffle(),
        (layers, nar) in (1..25usize, any::<bool>()),
    ) {
        let name = |i: usize| format!("n{i}");
        let make = |order: &[usize]| graph_in_order(order, &edges, &roots, &sizes, name);
        let counts: serde_json::Map<String, Value> = counts.iter().enumerate().map(|(i, &c)| (name(i), json!(c))).collect();
        let weight = if nar { Weight::NarSize } else { Weight::ClosureSize };
        let strategy = dominator(&Value::from(counts).to_string(), weight);
        let straight = make(&(0..20).collect::<Vec<_>>());
        let plan = strategy.plan(&straight, budget(layers));
        check(&straight, &plan, layers);
        prop_assert_eq!(contents(&plan), step_by_step(&strategy, &straight, layers));
        prop_assert_eq!(strategy.plan(&make(&order), budget(layers)), plan);
    }
}
