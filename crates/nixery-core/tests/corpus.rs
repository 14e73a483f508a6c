//! The corpora of the fuzz targets against the targets' own properties. What fuzzing finds
//! becomes a file of `fuzz/corpus`, and so a test.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

mod properties {
    pub(crate) mod cluster_plan;
    pub(crate) mod image_name;
    pub(crate) mod reference_graph;
}

#[test]
fn cluster_plan() {
    replay("cluster_plan", properties::cluster_plan::check);
}

#[test]
fn image_name() {
    replay("image_name", properties::image_name::check);
}

#[test]
fn reference_graph() {
    replay("reference_graph", properties::reference_graph::check);
}
