//! Popularity counted from a real list of packages, before and after a week's updates.

use nixery_core::{Popularity, ReferenceGraph};
use nixery_lab::{popularity::PopularityCounter, reference_sink::ReferenceSink};

const BEFORE: &[u8] = include_bytes!("data/shell-curl-cairo.json");
const AFTER: &[u8] = include_bytes!("data/shell-curl-cairo-updated.json");

fn graph(json: &[u8]) -> ReferenceGraph {
    ReferenceGraph::parse(json).expect("a captured graph")
}

#[test]
fn popularity_counted_from_the_list() {
    let mut counter = PopularityCounter::default();
    counter.add_graph(&graph(BEFORE));
    counter.add_graph(&graph(AFTER));
    let before = counter.to_json();
    counter.add_graph(&graph(BEFORE));
    assert_eq!(counter.to_json(), before, "each path counts once");
    assert_eq!(counter.paths(), 114, "102 and the 12 that changed");
    let popularity = Popularity::from_json(&before).expect("own JSON");
    let libc = graph(BEFORE)
        .nodes()
        .iter()
        .find(|n| n.path.package_name() == "libc6")
        .expect("libc")
        .path
        .clone();
    assert!(popularity.get(&libc) > 60);
}
