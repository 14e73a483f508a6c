//! Layer plans for people: tables and pictures.

use std::fmt::Write as _;

use serde::Serialize;

use super::{LayerPlan, PlannedLayer};
use crate::ByteSize;
use crate::graph::ReferenceGraph;
use crate::store_path::StorePath;

/// Fill colours of the layers, repeated. They are light, so that black text is readable on them.
const COLOURS: [&str; 8] = [
    "#e3f2fd", "#fff3e0", "#e8f5e9", "#fce4ec", "#f3e5f5", "#fffde7", "#e0f2f1", "#efebe9",
];

/// One layer of a plan with the texts of its paths, for a table or as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerRow<'a> {
    /// Its place in the image, from 1.
    pub number: usize,
    /// Bytes of its paths' NARs.
    pub nar_size: u64,
    /// How widely the strategy expects it to be shared.
    pub rating: u64,
    /// Why its paths are together.
    pub reason: &'a str,
    /// Its paths, sorted.
    pub paths: Vec<&'a StorePath>,
}

/// Returns the layers of a plan for this graph, in the image's order. Nodes that the graph does not
/// have are ignored.
pub fn layer_rows<'a>(graph: &'a ReferenceGraph, plan: &'a LayerPlan) -> Vec<LayerRow<'a>> {
    let row = |(index, layer): (usize, &'a PlannedLayer)| LayerRow {
        number: index + 1,
        nar_size: layer.nar_size,
        rating: layer.rating,
        reason: &layer.reason,
        paths: layer
            .paths
            .iter()
            .filter_map(|&path| Some(&graph.get(path)?.path))
            .collect(),
    };
    plan.layers.iter().enumerate().map(row).collect()
}

/// Returns a table with one line per layer: number, size, share of the image, paths, and why they
/// are together.
///
/// ```
/// use nixery_core::{Dominator, LayerStrategy, ReferenceGraph, to_table};
/// let json = br#"[{"path":"/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12","narSize":40000,"references":[]}]"#;
/// let graph = ReferenceGraph::from_path_info(json, &[]).unwrap();
/// let plan = Dominator::default().plan(&graph, 94.try_into().unwrap());
/// print!("{}", to_table(&graph, &plan));
/// ```
pub fn to_table(graph: &ReferenceGraph, plan: &LayerPlan) -> String {
    let total = graph.total_nar_size().max(1);
    let mut table = format!(
        "{:>5}  {:>9}  {:>6}  {:>5}  why\n",
        "layer", "size", "share", "paths"
    );
    for row in layer_rows(graph, plan) {
        let share = (u128::from(row.nar_size) * 1000 + total / 2) / total;
        let (size, paths) = (ByteSize(row.nar_size), row.paths.len());
        let _ = writeln!(
            table,
            "{:>5}  {size:>9}  {:>3}.{}%  {paths:>5}  {}",
            row.number,
            share / 10,
            share % 10,
            row.reason
        );
    }
    let whole = u64::try_from(graph.total_nar_size()).unwrap_or(u64::MAX);
    let _ = writeln!(
        table,
        "{:>5}  {:>9}  {:>6}  {:>5}",
        "total",
        ByteSize(whole),
        "",
        graph.len()
    );
    table
}

/// Returns the plan as a Graphviz digraph (DOT language). Each layer is a cluster, labelled with
/// its size and the reason why its paths are together. Each path is a box with name and size, each
/// reference an edge. The image itself is a node that refers to the roots. Equal input gives equal
/// text.
pub fn to_dot(graph: &ReferenceGraph, plan: &LayerPlan) -> String {
    // Straight lines: with many clusters Graphviz fails to route splines and loses edges.
    let mut dot = String::from(
        "digraph layers {\n  rankdir=LR;\n  splines=line;\n  fontname=\"sans-serif\";\n  \
         node [shape=box, style=\"filled,rounded\", fillcolor=white, fontname=\"sans-serif\", fontsize=10];\n  \
         edge [color=\"#607d8b\", arrowsize=0.6];\n  image [shape=doublecircle, label=\"image\"];\n",
    );
    for (index, row) in layer_rows(graph, plan).into_iter().enumerate() {
        let (size, paths) = (ByteSize(row.nar_size), row.paths.len());
        let plural = if paths == 1 { "path" } else { "paths" };
        let (number, reason) = (row.number, wrapped(row.reason));
        let label = format!("layer {number}: {size}, {paths} {plural}\n{reason}");
        let colour = COLOURS[index % COLOURS.len()];
        // Rust's quoted form of a text is one of DOT as well.
        let _ = writeln!(dot, "  subgraph cluster_{index} {{");
        let _ = writeln!(
            dot,
            "    label={label:?}; style=filled; color=\"{colour}\";"
        );
        for &id in &plan.layers[index].paths {
            let Some(node) = graph.get(id) else { continue };
            let label = format!("{}\n{}", node.path.name(), ByteSize(node.nar_size));
            let tooltip = node.path.as_str();
            let _ = writeln!(dot, "    n{id} [label={label:?}, tooltip={tooltip:?}];");
        }
        dot.push_str("  }\n");
    }
    let layer_of = plan.layers_of_paths(graph).ok();
    for root in graph.roots() {
        let _ = writeln!(dot, "  image -> n{root} [style=bold];");
    }
    for id in graph.ids() {
        for reference in graph.references(id) {
            // References inside a layer explain it. The others stay in the background.
            let inside = layer_of
                .as_ref()
                .is_none_or(|of| of[id.index()] == of[reference.index()]);
            let style = if inside { "" } else { " [color=\"#cfd8dc\"]" };
            let _ = writeln!(dot, "  n{id} -> n{reference}{style};");
        }
    }
    dot.push_str("}\n");
    dot
}

/// Breaks a text into lines of about 60 characters, so that a label does not widen its cluster.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split(' ') {
        let separator = if length == 0 {
            ""
        } else if length + word.len() > 60 {
            length = 0;
            "\n"
        } else {
            " "
        };
        lines.push_str(separator);
        lines.push_str(word);
        length += word.len() + 1;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::path;
    use crate::{NodeId, PlannedLayer};
    use serde_json::json;

    fn example() -> (ReferenceGraph, LayerPlan) {
        let json = json!({
            "exportReferencesGraph": { "graph": [path("git-2")] },
            "graph": [
                { "path": path("git-2"), "narSize": 3_000_000, "references": [path("libc-1"), path("zlib-1")] },
                { "path": path("libc-1"), "narSize": 1_000_000, "references": [] },
                { "path": path("zlib-1"), "narSize": 200, "references": [path("libc-1")] },
            ]
        });
        let graph = ReferenceGraph::parse(json.to_string().as_bytes()).unwrap();
        let layer = |paths: &[NodeId], nar_size, reason: &str| PlannedLayer {
            paths: paths.to_vec(),
            nar_size,
            rating: 7,
            reason: reason.to_owned(),
        };
        let index = |name: &str| {
            graph
                .id_of(&StorePath::parse(&path(name)).unwrap())
                .unwrap()
        };
        let mut first = [index("git-2"), index("zlib-1")];
        first.sort_unstable();
        let layers = vec![
            layer(&[index("libc-1")], 1_000_000, "everyone's"),
            layer(&first, 3_000_200, "a \"quote\" \\"),
        ];
        (graph, LayerPlan { layers })
    }

    #[test]
    fn table() {
        let (graph, plan) = example();
        assert_eq!(
            to_table(&graph, &plan),
            "layer       size   share  paths  why\n    \
             1     1.0 MB   25.0%      1  everyone's\n    \
             2     3.0 MB   75.0%      2  a \"quote\" \\\n\
             total     4.0 MB              3\n"
        );
    }

    #[test]
    fn dot_has_every_path_in_its_layer() {
        let (graph, plan) = example();
        let dot = to_dot(&graph, &plan);
        assert!(
            dot.contains(
                r##"label="layer 1: 1.0 MB, 1 path\neveryone's"; style=filled; color="#e3f2fd";"##
            ),
            "{dot}"
        );
        assert!(
            dot.contains(r#"label="layer 2: 3.0 MB, 2 paths\na \"quote\" \\"; style"#),
            "{dot}"
        );
        assert!(
            dot.contains(r#"[label="libc-1\n1.0 MB", tooltip="/nix/store/"#),
            "{dot}"
        );
        assert_eq!(
            dot.matches(" -> ").count(),
            4,
            "three references and one root"
        );
        assert_eq!(dot.matches("  image -> n").count(), 1);
        let clusters: Vec<&str> = dot
            .split("subgraph cluster_")
            .skip(1)
            .map(|c| c.split("  }\n").next().unwrap())
            .collect();
        assert_eq!(clusters.len(), 2);
        assert!(clusters[0].contains("libc-1") && !clusters[0].contains("git-2"));
        assert!(clusters[1].contains("git-2") && clusters[1].contains("zlib-1"));
        assert_eq!(dot, to_dot(&graph, &plan));
    }

    #[test]
    fn an_empty_plan_is_drawn_too() {
        let (graph, plan) = (ReferenceGraph::default(), LayerPlan::default());
        assert!(to_dot(&graph, &plan).ends_with("}\n"));
        assert!(to_table(&graph, &plan).ends_with("total        0 B              0\n"));
    }

    #[test]
    fn rows_as_json() {
        let (graph, plan) = example();
        let json = serde_json::to_value(layer_rows(&graph, &plan)).unwrap();
        assert_eq!(
            json[0],
            json!({ "number": 1, "narSize": 1_000_000, "rating": 7, "reason": "everyone's", "paths": [path("libc-1")] })
        );
    }
}
