//! Layer planning on a real list of packages: what a shell image with curl and cairo's Python
//! binding consists of, from Debian's package lists with Nix's kind of store paths, before and
//! after a week's updates.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use nixery_core::{
    DEFAULT_BUDGET, Dominator, LayerPlan, LayerStrategy, Popularity, ReferenceGraph, StorePath,
    Weight, layer_rows, to_dot, to_table,
};
use nixery_manifest::Digest;
use rstest::rstest;

const BEFORE: &[u8] = include_bytes!("data/shell-curl-cairo.json");
const AFTER: &[u8] = include_bytes!("data/shell-curl-cairo-updated.json");
const POPULARITY: &[u8] = include_bytes!("data/popularity.json");

fn graph(json: &[u8]) -> ReferenceGraph {
    ReferenceGraph::parse(json).expect("a captured graph")
}

fn strategy(weight: Weight) -> Dominator {
    let popularity = Popularity::from_json(POPULARITY)
        .expect("popularity data")
        .across_versions();
    Dominator {
        popularity: Arc::new(popularity),
        weight,
        ..Dominator::default()
    }
}

/// The layers' paths; what identifies a layer.
fn layers<'a>(graph: &'a ReferenceGraph, plan: &'a LayerPlan) -> HashSet<Vec<&'a StorePath>> {
    layer_rows(graph, plan)
        .into_iter()
        .map(|row| row.paths)
        .collect()
}

#[test]
fn the_list_is_read_whole() {
    let graph = graph(BEFORE);
    assert_eq!((graph.len(), graph.roots().len()), (102, 8));
    assert_eq!(
        graph.entry_points(),
        graph.roots(),
        "the roots lead to everything"
    );
    assert_eq!(
        ReferenceGraph::parse(&graph.to_json()).expect("own JSON"),
        graph
    );
}

/// Nix's closure sizes, which the data has, and those computed where path-info has none.
#[test]
fn computed_closure_sizes_are_those_of_the_data() {
    let graph = graph(BEFORE);
    let mut json: serde_json::Value = serde_json::from_slice(BEFORE).expect("JSON");
    for entry in json["graph"].as_array_mut().expect("a list") {
        entry
            .as_object_mut()
            .expect("an object")
            .remove("closureSize");
    }
    let roots: Vec<StorePath> = graph
        .roots()
        .iter()
        .map(|&root| graph.node(root).path.clone())
        .collect();
    let computed = ReferenceGraph::from_path_info(json["graph"].to_string().as_bytes(), &roots);
    assert_eq!(computed.expect("path-info"), graph);
}

#[rstest]
#[case(Weight::ClosureSize)]
#[case(Weight::NarSize)]
fn nothing_lost_and_the_budget_kept(#[case] weight: Weight) {
    for json in [BEFORE, AFTER] {
        let graph = graph(json);
        for budget in 1..=125 {
            let budget = NonZeroUsize::new(budget).expect("not zero");
            let plan = strategy(weight).plan(&graph, budget);
            assert_eq!(plan.check(&graph, budget), Ok(()));
        }
    }
}

/// Pinned: a change here makes clients fetch layers of existing images anew.
#[rstest]
#[case(
    Weight::ClosureSize,
    94,
    "c0715defee706c059248cde55a79c14aeac0809912874fecccbc957b960dda6d"
)]
#[case(
    Weight::ClosureSize,
    20,
    "45ece266b8c136fb8396a8955cb4fab02e079c73414529e36586f4c783a09960"
)]
#[case(
    Weight::NarSize,
    20,
    "5a0eb5cf6101de7f90bc985364bac93802cd124ed4b81c47faeed5e6555efabf"
)]
fn the_plan_stays_the_same(#[case] weight: Weight, #[case] budget: usize, #[case] expected: &str) {
    let graph = graph(BEFORE);
    let plan = strategy(weight).plan(&graph, NonZeroUsize::new(budget).expect("not zero"));
    let json = serde_json::to_vec(&layer_rows(&graph, &plan)).expect("rows");
    assert_eq!(
        Digest::of(&json).to_string(),
        format!("sha256:{expected}"),
        "{}",
        to_table(&graph, &plan)
    );
}

/// An update of 12 of 102 paths leaves most layers as they are; a larger budget more of the bytes.
#[rstest]
#[case(94, 41, 79)]
#[case(20, 15, 53)]
fn an_update_keeps_layers(#[case] budget: usize, #[case] kept: usize, #[case] percent: u64) {
    let (before, after) = (graph(BEFORE), graph(AFTER));
    let budget = NonZeroUsize::new(budget).expect("not zero");
    let strategy = strategy(Weight::ClosureSize);
    let (old, new) = (
        strategy.plan(&before, budget),
        strategy.plan(&after, budget),
    );
    let old = layers(&before, &old);
    let rows = layer_rows(&after, &new);
    let same: Vec<_> = rows.iter().filter(|row| old.contains(&row.paths)).collect();
    let bytes: u64 = same.iter().map(|row| row.nar_size).sum();
    let total: u64 = rows.iter().map(|row| row.nar_size).sum();
    assert!(
        same.len() >= kept && bytes * 100 / total >= percent,
        "{} layers, {} %",
        same.len(),
        bytes * 100 / total
    );
}

#[test]
fn the_picture_and_the_table_show_every_path_and_layer() {
    let graph = graph(BEFORE);
    let plan = strategy(Weight::ClosureSize).plan(&graph, DEFAULT_BUDGET);
    let dot = to_dot(&graph, &plan);
    assert!(
        graph
            .nodes()
            .iter()
            .all(|node| dot.contains(node.path.as_str()))
    );
    assert_eq!(dot.matches("subgraph cluster_").count(), plan.layers.len());
    assert_eq!(
        to_table(&graph, &plan).lines().count(),
        plan.layers.len() + 2
    );
}

/// Graphviz draws it without complaint.
#[test]
fn graphviz_draws_the_picture() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let graph = graph(BEFORE);
    let dot = to_dot(
        &graph,
        &strategy(Weight::ClosureSize).plan(&graph, NonZeroUsize::new(12).expect("not zero")),
    );
    let mut command = Command::new("dot");
    command
        .arg("-Tsvg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("SKIPPED: Graphviz's dot is not installed, so no picture was drawn");
        return;
    };
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(dot.as_bytes())
        .expect("dot reads its input");
    let output = child.wait_with_output().expect("dot ends");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}"
    );
    let svg = String::from_utf8(output.stdout).expect("SVG is text");
    assert_eq!(svg.matches("class=\"cluster\"").count(), 12);
    assert_eq!(svg.matches("class=\"node\"").count(), graph.len() + 1);
}
