//! Layer plans as pictures and tables.
use crate::graph::ReferenceGraph;
use crate::plan::LayerPlan;

/// Graphviz DOT.
#[must_use]
#[allow(clippy::unimplemented)]
pub fn to_dot(graph: &ReferenceGraph, plan: &LayerPlan) -> String {
    let _ = (graph, plan);
    unimplemented!()
}

/// A table for people: one line per layer.
#[must_use]
#[allow(clippy::unimplemented)]
pub fn to_table(graph: &ReferenceGraph, plan: &LayerPlan) -> String {
    let _ = (graph, plan);
    unimplemented!()
}
