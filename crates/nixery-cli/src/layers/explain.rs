//! `nixery layers explain`.

use std::cmp::Reverse;
use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use nixery_core::{LayerPlan, NodeId, PlannedLayer, ReferenceGraph, StorePath};
use serde::Serialize;

use super::graph::{GraphArgs, ImageSourceArgs};
use super::sharing::{Measure, Sharing};
use super::strategies::{DataArgs, Strategy};
use crate::output;
use crate::progress::bytes;

/// Explain each layer: its size, why its paths are together, how widely they are shared.
///
/// How widely a path is shared is told by the plan (the share of the images that it was made from
/// that have the path), else by the popularity data (how many packages refer to it), else by the
/// graph (how many of its other paths refer to it).
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nix path-info --json --recursive $(which git) | nixery layers explain -
  nixery layers explain shell/git/htop --plan nixpkgs.plan --pkgs-path ./packages
  nixery layers explain graph.json --strategy dominator --pop popularity.json --json

The packages of an image are found and built as by nixery build; nothing is packed or stored. Where a
file has the name of an image, the tag says what is meant: git:latest.")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    graph: GraphArgs,

    #[command(flatten)]
    data: DataArgs,

    /// How paths are grouped [default, as in a registry: plan with --plan, else dominator with --pop,
    /// --threshold or --weight, else size]
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Option<Strategy>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    // Last: the flags after it would stand under its heading.
    #[command(flatten)]
    images: ImageSourceArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation<'a> {
    /// The strategy's id.
    strategy: String,
    /// What tells how widely paths are shared: `plan`, `popularity` or `graph`.
    shared_by: &'static str,
    /// Images that the plan was made from.
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
    shared: Option<Sharing>,
    /// The largest first.
    paths: Vec<Path<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Path<'a> {
    path: &'a StorePath,
    nar_size: u64,
    shared: Option<u64>,
}

pub(super) async fn run(args: ExplainArgs) -> Result<ExitCode> {
    let data = args.data.load_for(&args.graph).await?;
    let strategy = data.one(args.strategy)?;
    let graph = args.graph.read(&args.images).await?;
    let plan = strategy.plan(&graph, data.budget);
    let measure = Measure::of(&data, &graph);
    let explanation = explain(&graph, &plan, &measure, strategy.id());
    if args.json {
        output::json(&explanation)?;
    } else {
        output::text(&for_people(&explanation, &measure))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn explain<'a>(
    graph: &'a ReferenceGraph,
    plan: &'a LayerPlan,
    measure: &Measure<'_>,
    strategy: String,
) -> Explanation<'a> {
    let layer = |(place, layer): (usize, &'a PlannedLayer)| {
        let path = |&path: &NodeId| {
            let node = graph.node(path);
            Path {
                path: &node.path,
                nar_size: node.nar_size,
                shared: measure.of_path(graph, path),
            }
        };
        let mut paths: Vec<_> = layer.paths.iter().map(path).collect();
        paths.sort_by_key(|path| (Reverse(path.nar_size), path.path));
        Layer {
            number: place + 1,
            nar_size: layer.nar_size,
            reason: &layer.reason,
            rating: layer.rating,
            shared: measure.of_layer(graph, layer),
            paths,
        }
    };
    Explanation {
        strategy,
        shared_by: match measure {
            Measure::Reach(_) => "plan",
            Measure::Popularity(_) => "popularity",
            Measure::Image(_) => "graph",
        },
        samples: match measure {
            Measure::Reach(plan) => Some(plan.samples()),
            Measure::Popularity(_) | Measure::Image(_) => None,
        },
        layers: plan.layers.iter().enumerate().map(layer).collect(),
    }
}

fn for_people(explanation: &Explanation<'_>, measure: &Measure<'_>) -> String {
    let mut text = String::new();
    for layer in &explanation.layers {
        let (number, size) = (layer.number, bytes(layer.nar_size));
        let plural = if layer.paths.len() == 1 {
            "path"
        } else {
            "paths"
        };
        let count = layer.paths.len();
        // Writing to a string does not fail.
        let _ = writeln!(text, "layer {number}: {size}, {count} {plural}");
        let _ = writeln!(text, "  why: {}", layer.reason);
        if let Some(sharing) = layer.shared {
            let _ = writeln!(text, "  shared: {}", measure.sentence(sharing));
        }
        for path in &layer.paths {
            let size = bytes(path.nar_size);
            let shared = path
                .shared
                .map_or_else(String::new, |value| measure.words(value));
            let _ = writeln!(text, "  {size:>10}  {shared:>7}  {}", path.path.as_str());
        }
        text.push('\n');
    }
    let size = explanation
        .layers
        .iter()
        .map(|layer| u128::from(layer.nar_size))
        .sum::<u128>();
    let size = bytes(u64::try_from(size).unwrap_or(u64::MAX));
    let paths: usize = explanation
        .layers
        .iter()
        .map(|layer| layer.paths.len())
        .sum();
    let _ = writeln!(
        text,
        "{} layers, {paths} paths, {size}, by {}",
        explanation.layers.len(),
        explanation.strategy
    );
    text
}
