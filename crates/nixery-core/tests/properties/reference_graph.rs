//! What holds of any bytes as a reference graph, and of every plan of it.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use nixery_core::{
    ClusterPlan, Clustered, DEFAULT_THRESHOLD, Dominator, LayerPlan, LayerStrategy, PlannedPackage,
    Popularity, ReferenceGraph, Size, StorePath, Weight, package_key, to_dot, to_table,
};
use serde_json::{Map, Value, json};

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    match ReferenceGraph::parse(data) {
        Ok(graph) => {
            invariants(&graph);
            reads_back(&graph);
            plans(&graph);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // The other format, with whatever its first path is for a root.
    if let Some(root) = first_path(data)
        && let Ok(graph) = ReferenceGraph::from_path_info(data, &[root])
    {
        invariants(&graph);
        plans(&graph);
    }
}

fn invariants(graph: &ReferenceGraph) {
    let nodes = graph.nodes();
    assert_eq!(graph.len(), nodes.len());
    assert_eq!(graph.is_empty(), nodes.is_empty());
    assert!(nodes.is_sorted_by(|a, b| a.path < b.path), "nodes");
    for (id, node) in graph.iter() {
        assert_eq!(graph.id_of(&node.path), Some(id));
        assert_eq!(graph.node(id), node);
        let references = graph.references(id);
        assert!(references.is_sorted_by(|a, b| a < b), "{references:?}");
        for reference in references {
            assert!(reference.index() < nodes.len());
            assert_ne!(*reference, id, "no path refers to itself");
        }
        assert_eq!(
            StorePath::parse(node.path.as_str()).as_ref(),
            Ok(&node.path)
        );
    }
    let roots = graph.roots();
    assert!(roots.is_sorted_by(|a, b| a < b), "{roots:?}");
    assert!(
        roots.iter().all(|root| root.index() < nodes.len()),
        "{roots:?}"
    );
    let total: u128 = nodes.iter().map(|node| u128::from(node.nar_size)).sum();
    assert_eq!(graph.total_nar_size(), total);
}

/// The order of paths, references and roots in the input means nothing.
fn reads_back(graph: &ReferenceGraph) {
    let paths = |backwards: bool| {
        let mut paths: Vec<_> = graph
            .iter()
            .map(|(id, node)| {
                let mut references: Vec<_> = graph
                    .references(id)
                    .iter()
                    .map(|reference| graph.node(*reference).path.as_str())
                    .collect();
                if backwards {
                    // Nix lists a path among its own references, too.
                    references.push(node.path.as_str());
                    references.reverse();
                }
                let mut path = Map::new();
                path.insert("path".to_owned(), node.path.as_str().into());
                path.insert("narSize".to_owned(), node.nar_size.into());
                path.insert("closureSize".to_owned(), node.closure_size.into());
                path.insert("references".to_owned(), references.into());
                if let Some(hash) = node.nar_hash {
                    path.insert("narHash".to_owned(), hash.to_string().into());
                }
                Value::Object(path)
            })
            .collect();
        if backwards {
            paths.reverse();
        }
        paths
    };
    let roots: Vec<_> = graph
        .roots()
        .iter()
        .map(|root| graph.node(*root).path.clone())
        .collect();
    for backwards in [false, true] {
        let mut names: Vec<_> = roots.iter().map(StorePath::as_str).collect();
        if backwards {
            names.reverse();
        }
        let document = json!({
            "exportReferencesGraph": { "graph": names },
            "graph": paths(backwards),
        });
        let read = ReferenceGraph::parse(document.to_string().as_bytes())
            .expect("what is written reads back");
        assert_eq!(&read, graph);

        let document = Value::from(paths(backwards)).to_string();
        let read = ReferenceGraph::from_path_info(document.as_bytes(), &roots)
            .expect("the same paths are path-info, too");
        assert_eq!(&read, graph);
    }
}

fn plans(graph: &ReferenceGraph) {
    let dominator = |weight, threshold| -> Box<dyn LayerStrategy> {
        Box::new(Dominator {
            popularity: Arc::new(Popularity::default()),
            threshold,
            weight,
        })
    };
    let strategies = [
        dominator(Weight::ClosureSize, DEFAULT_THRESHOLD),
        dominator(Weight::NarSize, DEFAULT_THRESHOLD),
        // Every path is popular: most layers, most merging.
        dominator(Weight::NarSize, 1),
        Box::new(Size),
        Box::new(Clustered {
            plan: Arc::new(cluster_plan(graph)),
        }),
    ];
    for strategy in &strategies {
        for budget in [1, 2, 3, 94] {
            let budget = NonZeroUsize::new(budget).expect("it is not 0");
            let plan = strategy.plan(graph, budget);
            is_partition(graph, &plan, budget);
            assert_eq!(strategy.plan(graph, budget), plan, "the same again");
            assert!(!to_dot(graph, &plan).is_empty());
            assert!(!to_table(graph, &plan).is_empty());
        }
    }
}

/// A plan that knows every other name of the graph, two in a cluster.
fn cluster_plan(graph: &ReferenceGraph) -> ClusterPlan {
    let names = graph.nodes().iter();
    let names: BTreeSet<String> = names
        .map(|node| package_key(node.path.name()).into_owned())
        .collect();
    let known: Vec<String> = names.into_iter().step_by(2).collect();
    let packages = known.chunks(2).flat_map(|cluster| {
        let planned = |(name, samples): (&String, u32)| PlannedPackage {
            name: name.clone(),
            cluster: cluster[0].clone(),
            samples,
        };
        cluster.iter().zip(1..).map(planned)
    });
    ClusterPlan::new("any".to_owned(), 2, packages).expect("a plan")
}

fn is_partition(graph: &ReferenceGraph, plan: &LayerPlan, budget: NonZeroUsize) {
    assert!(plan.layers.len() <= budget.get(), "{plan:?}");
    let mut seen = vec![false; graph.len()];
    for layer in &plan.layers {
        assert!(!layer.paths.is_empty());
        assert!(layer.paths.is_sorted_by(|a, b| a < b), "{layer:?}");
        for path in &layer.paths {
            assert!(!seen[path.index()], "path {path} is in two layers");
            seen[path.index()] = true;
        }
        let size = layer
            .paths
            .iter()
            .map(|path| graph.node(*path).nar_size)
            .fold(0, u64::saturating_add);
        assert_eq!(layer.nar_size, size);
    }
    assert!(seen.iter().all(|seen| *seen), "a path is in no layer");
    assert!(
        plan.layers.is_sorted_by(|a, b| a.rating >= b.rating),
        "most shared first"
    );
}

/// The first `path` of path-info in either shape: a list of objects, or a map keyed by path.
fn first_path(data: &[u8]) -> Option<StorePath> {
    let document: Value = serde_json::from_slice(data).ok()?;
    let path = match &document {
        Value::Array(paths) => paths.first()?.get("path")?.as_str()?,
        Value::Object(paths) => paths.keys().next()?,
        _ => return None,
    };
    StorePath::parse(path).ok()
}
