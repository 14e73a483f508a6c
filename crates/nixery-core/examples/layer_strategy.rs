//! A layer strategy of one's own, checked against the contract of strategies.
//!
//! ```text
//! cargo run -p nixery-core --example layer_strategy -- [GRAPH [BUDGET]]
//! ```
//!
//! GRAPH is a reference graph in any form that Nix writes, for instance the output of
//! `nix path-info --json --recursive`. BUDGET is the greatest number of layers, 8 by default.
//! Without arguments, the example plans a graph of its own.
//!
//! To build images with such a strategy, set `BuilderConfig::strategy` of `nixery-builder`.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::num::NonZeroUsize;

use nixery_core::{LayerPlan, LayerStrategy, NodeId, PlannedLayer, ReferenceGraph, Size, to_table};

/// One layer for each first letter of the packages' names, as far as the budget allows.
#[derive(Debug)]
struct ByLetter;

impl LayerStrategy for ByLetter {
    // Part of cache keys. It names the version and every parameter: when the strategy plans
    // differently, images must not be taken from the cache.
    fn id(&self) -> String {
        "by-letter/1".to_owned()
    }

    // A pure function of graph and budget. A `BTreeMap` gives the same order on every machine,
    // which a `HashMap` does not.
    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        let mut buckets: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
        for (id, node) in graph.iter() {
            let letter = node.path.name().bytes().next().unwrap_or_default();
            let bucket = usize::from(letter) % budget.get();
            buckets.entry(bucket).or_default().push(id);
        }
        let mut layers: Vec<PlannedLayer> = buckets
            .into_values()
            .map(|paths| {
                let sizes = paths.iter().map(|&id| graph.node(id).nar_size);
                let nar_size = sizes.fold(0, u64::saturating_add);
                PlannedLayer {
                    reason: format!("{} paths with the same letter", paths.len()),
                    // The widest shared layer is the lowest. This strategy knows no better
                    // estimate than the size.
                    rating: nar_size,
                    nar_size,
                    paths,
                }
            })
            .collect();
        layers.sort_by(|a, b| b.rating.cmp(&a.rating).then_with(|| a.paths.cmp(&b.paths)));
        LayerPlan { layers }
    }
}

/// A strategy with a mistake: it leaves the last path out.
#[derive(Debug)]
struct Forgetful;

impl LayerStrategy for Forgetful {
    fn id(&self) -> String {
        "forgetful/1".to_owned()
    }

    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        let mut plan = Size.plan(graph, budget);
        plan.layers.pop();
        plan
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let json = match arguments.next() {
        Some(file) => fs::read(file)?,
        None => GRAPH.as_bytes().to_vec(),
    };
    let budget: NonZeroUsize = arguments.next().as_deref().unwrap_or("8").parse()?;
    let graph = ReferenceGraph::from_json(&json, &[])?;

    // `check` is what the builder does with every plan before it packs layers. A test of a strategy
    // calls it for many graphs and budgets.
    let plan = ByLetter.plan(&graph, budget);
    plan.check(&graph, budget)?;
    println!("{}:\n{}", ByLetter.id(), to_table(&graph, &plan));

    match Forgetful.plan(&graph, budget).check(&graph, budget) {
        Err(error) => println!("{}: the plan is refused: {error}", Forgetful.id()),
        Ok(()) => return Err("a plan without all paths was accepted".into()),
    }
    Ok(())
}

/// What `nix path-info --json --recursive` prints, shortened.
const GRAPH: &str = r#"[
    { "path": "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-htop-3.4", "narSize": 400000,
      "references": ["/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.42",
                     "/nix/store/9n8y1zk2xcvn0h4j5q6r7s8a9b0c1d2f-ncurses-6.5"] },
    { "path": "/nix/store/9n8y1zk2xcvn0h4j5q6r7s8a9b0c1d2f-ncurses-6.5", "narSize": 5000000,
      "references": ["/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.42"] },
    { "path": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.42", "narSize": 30000000,
      "references": [] }
]"#;
