//! The strategy `plan` groups and orders as its executable specification does.
//!
//! `data/reference-grouping.json` is what that specification, a program in Python with
//! floating-point numbers, printed for a few images of Debian packages with Nix-style paths: the
//! part of its plan that the images need, their paths (base name, NAR size, references by index),
//! and the layers at several budgets.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nixery_core::{
    ClusterPlan, Clustered, LayerStrategy, NodeId, PlannedPackage, ReferenceGraph, Size,
};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Reference {
    samples: u32,
    packages: Vec<(String, String, u32)>,
    paths: Vec<(String, u64, Vec<usize>)>,
    groupings: Vec<Grouping>,
}

#[derive(Deserialize)]
struct Grouping {
    roots: Vec<usize>,
    budget: NonZeroUsize,
    layers: Vec<Vec<usize>>,
}

fn reference() -> Reference {
    serde_json::from_slice(include_bytes!("data/reference-grouping.json")).expect("the test's data")
}

impl Reference {
    fn plan(&self) -> Clustered {
        let packages = self.packages.iter().cloned();
        let packages = packages.map(|(name, cluster, samples)| PlannedPackage {
            name,
            cluster,
            samples,
        });
        let plan = ClusterPlan::new("reference".to_owned(), self.samples, packages);
        Clustered {
            plan: Arc::new(plan.expect("a plan")),
        }
    }

    fn store_path(&self, path: usize) -> String {
        format!("/nix/store/{}", self.paths[path].0)
    }

    /// The graph of the paths that a grouping has.
    fn graph(&self, grouping: &Grouping) -> ReferenceGraph {
        let store_paths = |paths: &[usize]| -> Vec<String> {
            paths.iter().map(|&path| self.store_path(path)).collect()
        };
        let paths = grouping.layers.iter().flatten();
        let entries: Vec<_> = paths
            .map(|&path| {
                let (_, nar_size, references) = &self.paths[path];
                json!({ "path": self.store_path(path), "narSize": nar_size, "references": store_paths(references) })
            })
            .collect();
        let json = json!({ "exportReferencesGraph": { "graph": store_paths(&grouping.roots) }, "graph": entries });
        ReferenceGraph::parse(json.to_string().as_bytes()).expect("a graph")
    }
}

#[test]
fn plan_groups_as_specified() {
    let reference = reference();
    let strategy = reference.plan();
    assert!(reference.groupings.len() > 9);
    for grouping in &reference.groupings {
        let graph = reference.graph(grouping);
        let plan = strategy.plan(&graph, grouping.budget);
        let path = |&path: &NodeId| graph.node(path).path.to_string();
        let layers: Vec<Vec<String>> = plan
            .layers
            .iter()
            .map(|layer| layer.paths.iter().map(path).collect())
            .collect();
        let store_path = |&path: &usize| reference.store_path(path);
        let expected: Vec<Vec<String>> = grouping
            .layers
            .iter()
            .map(|layer| layer.iter().map(store_path).collect())
            .collect();
        assert_eq!(layers, expected, "at {} layers", grouping.budget);
    }
}

/// What two images have in common in large paths, they have as layers in common.
#[test]
fn images_share_layers() {
    let reference = reference();
    for strategy in [&Size as &dyn LayerStrategy, &reference.plan()] {
        let mut images: Vec<Vec<Vec<String>>> = Vec::new();
        for grouping in reference.groupings.iter().filter(|g| g.budget.get() == 125) {
            let graph = reference.graph(grouping);
            let plan = strategy.plan(&graph, grouping.budget);
            let path = |&path: &NodeId| graph.node(path).path.to_string();
            images.push(
                plan.layers
                    .iter()
                    .map(|layer| layer.paths.iter().map(path).collect())
                    .collect(),
            );
        }
        let libc = |layers: &Vec<Vec<String>>| {
            layers
                .iter()
                .find(|layer| layer.iter().any(|path| path.contains("-libc6-")))
                .cloned()
        };
        assert!(libc(&images[0]).is_some());
        assert_eq!(libc(&images[1]), libc(&images[0]), "{}", strategy.id());
    }
}
