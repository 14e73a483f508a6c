//! `nixery layers explain`.

use std::cmp::Reverse;

use anyhow::Result;
use nixery_core::{LayerPlan, NodeId, PlannedLayer, ReferenceGraph, StorePath};
use serde::Serialize;

use super::graph::GraphArgs;
use super::sharing::{Measure, Sharing};
use super::strategies::{DataArgs, Strategy};
use crate::output;
use crate::progress::bytes;

/// Explain each layer: its size, why its paths share it, and how widely they are shared.
///
/// The measure of sharing is, with a plan, the share of the plan's sample images that have the
/// path. With popularity data it is the number of packages that refer to the path, and otherwise
/// the number of paths of the graph that refer to it.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nix path-info --json --recursive $(which git) | nixery layers explain -
  nixery layers explain shell/git/htop --plan nixpkgs.plan --pkgs-path ./packages
  nixery layers explain graph.json --strategy dominator --pop popularity.json --json

The packages of an image are built as by nixery build; nothing is packed or stored. If a file has the
name of the image, add the tag: git:latest.")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    graph: GraphArgs,

    #[command(flatten)]
    data: DataArgs,

    /// How to group paths [default, as in a registry: plan with --plan, else dominator with --pop,
    /// --threshold or --weight, else size]
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Option<Strategy>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation<'a> {
    /// The strategy's id.
    strategy: String,
    /// The measure of sharing: `plan`, `popularity` or `graph`.
    shared_by: &'static str,
    /// The number of images that the plan was made from.
    samples: Option<u32>,
    layers: Vec<Layer<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Layer<'a> {
    number: usize,
    nar_size: u64,
    reason: &'a str,
    rating: u64,
    shared: Sharing,
    /// In descending order of size.
    paths: Vec<Path<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Path<'a> {
    path: &'a StorePath,
    nar_size: u64,
    shared: u64,
}

pub(super) async fn run(args: ExplainArgs) -> Result<()> {
    let data = args.data.load_for(&args.graph).await?;
    let strategy = data.one(args.strategy)?;
    let graph = args.graph.read().await?;
    let plan = strategy.plan(&graph, data.budget);
    let measure = Measure::of(&data, &graph);
    let explanation = explain(&graph, &plan, &measure, strategy.id());
    output::result(args.json, &explanation, || text(&explanation, &measure))
}

fn explain<'a>(
    graph: &'a ReferenceGraph,
    plan: &'a LayerPlan,
    measure: &Measure,
    strategy: String,
) -> Explanation<'a> {
    let layer = |(index, layer): (usize, &'a PlannedLayer)| {
        let path = |&path: &NodeId| {
            let node = graph.node(path);
            Path {
                path: &node.path,
                nar_size: node.nar_size,
                shared: measure.of_path(path),
            }
        };
        let mut paths: Vec<_> = layer.paths.iter().map(path).collect();
        paths.sort_by_key(|path| (Reverse(path.nar_size), path.path));
        Layer {
            number: index + 1,
            nar_size: layer.nar_size,
            reason: &layer.reason,
            rating: layer.rating,
            shared: measure.of_layer(layer),
            paths,
        }
    };
    Explanation {
        strategy,
        shared_by: measure.name,
        samples: measure.samples,
        layers: plan.layers.iter().enumerate().map(layer).collect(),
    }
}

fn text(explanation: &Explanation<'_>, measure: &Measure) -> String {
    let (mut text, mut total_size, mut total_paths) = (String::new(), 0u64, 0);
    for layer in &explanation.layers {
        let (number, size, count) = (layer.number, layer.nar_size, layer.paths.len());
        let plural = if count == 1 { "path" } else { "paths" };
        text += &format!("layer {number}: {}, {count} {plural}\n", bytes(size));
        text += &format!("  why: {}\n", layer.reason);
        text += &format!("  shared: {}\n", measure.sentence(layer.shared));
        for path in &layer.paths {
            let (size, shared) = (bytes(path.nar_size), measure.words(path.shared));
            text += &format!("  {size:>10}  {shared:>7}  {}\n", path.path.as_str());
        }
        text.push('\n');
        total_size = total_size.saturating_add(size);
        total_paths += count;
    }
    let (layers, size) = (explanation.layers.len(), bytes(total_size));
    let strategy = &explanation.strategy;
    text + &format!("{layers} layers, {total_paths} paths, {size}, by {strategy}\n")
}
