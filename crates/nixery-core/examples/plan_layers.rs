//! Plans the layers of a reference graph and prints them.
//!
//! ```text
//! cargo run -p nixery-core --example plan_layers -- crates/nixery-core/tests/data/shell-curl-cairo.json 12
//! ```
//!
//! The graph is the attributes file of a derivation with `exportReferencesGraph.graph = [ … ]`. The second
//! argument is the most layers there may be, 94 if it is left out.

use std::env;
use std::error::Error;
use std::fs;

use nixery_core::{DEFAULT_BUDGET, Dominator, LayerStrategy, ReferenceGraph, layer_rows, to_table};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let file = arguments
        .next()
        .ok_or("usage: plan_layers GRAPH [BUDGET]")?;
    let budget = match arguments.next() {
        Some(budget) => budget.parse()?,
        None => DEFAULT_BUDGET,
    };

    let graph = ReferenceGraph::parse(&fs::read(file)?)?;
    let plan = Dominator::default().plan(&graph, budget);

    for layer in layer_rows(&graph, &plan) {
        println!("layer {}: {}", layer.number, layer.reason);
        for path in layer.paths {
            println!("    {path}");
        }
    }
    print!("\n{}", to_table(&graph, &plan));
    Ok(())
}
