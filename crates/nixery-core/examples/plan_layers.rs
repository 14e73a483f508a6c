//! Plans the layers of a reference graph and prints them.
//!
//! ```text
//! cargo run -p nixery-core --example plan_layers -- GRAPH [BUDGET]
//! ```
//!
//! GRAPH is a reference graph in any form that Nix writes: the output of
//! `nix path-info --json --recursive`, or the attributes file of a derivation with
//! `exportReferencesGraph`. `crates/nixery-core/tests/data/shell-curl-cairo.json` is one. BUDGET is
//! the greatest number of layers.

use std::env;
use std::error::Error;
use std::fs;

use nixery_core::{DEFAULT_BUDGET, LayerStrategy, ReferenceGraph, Size, layer_rows, to_table};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let file = arguments
        .next()
        .ok_or("usage: plan_layers GRAPH [BUDGET]")?;
    let budget = match arguments.next() {
        Some(budget) => budget.parse()?,
        None => DEFAULT_BUDGET,
    };

    let graph = ReferenceGraph::from_json(&fs::read(file)?, &[])?;
    // `Size` needs no data. `Dominator` and `Clustered` are the other strategies of this crate.
    let plan = Size.plan(&graph, budget);

    for layer in layer_rows(&graph, &plan) {
        println!("layer {}: {}", layer.number, layer.reason);
        for path in layer.paths {
            println!("    {path}");
        }
    }
    print!("\n{}", to_table(&graph, &plan));
    Ok(())
}
