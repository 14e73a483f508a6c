//! `nixery layers`: plans the layers of one graph or image.

mod bars;
mod compare;
mod explain;
mod graph;
mod graphviz;
mod sharing;
pub(crate) mod strategies;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use nixery_core::{
    LayerPlan, ReferenceGraph, StorePath, layer_rows, original_layer_key, to_dot, to_table,
};
use serde::Serialize;

use crate::output;
use graph::GraphArgs;
use strategies::{DataArgs, Strategy};

/// Plan the layers of a reference graph or an image, and show why paths share a layer.
///
/// A graph is the output of Nix for exportReferencesGraph with structured attributes, or of
/// `nix path-info --json --recursive`. The flags include those of the original's tool group-layers.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_long_help = "\
Examples:
  nix path-info --json --recursive $(which git) | nixery layers -
  nixery layers shell/git/htop --pkgs-path ./packages
  nixery layers graph.json --pop popularity.json --budget 20
  nixery layers --graph graph.json --pop popularity.json --out layers.json
  nixery layers graph.json --out layers.svg          a picture, by Graphviz
  nixery layers graph.json --format dot | dot -Tpdf > layers.pdf
  nixery layers explain graph.json --plan nixpkgs.plan
  nixery layers compare graph.json --out layers.svg

Write ./explain for a file with the name of a subcommand. Two flags give the results of group-layers:
--threshold 1000 separates paths as it does, and --weight nar gives the example that it documents."
)]
pub(crate) struct LayersArgs {
    #[command(subcommand)]
    command: Option<LayersCommand>,

    #[command(flatten)]
    graph: GraphArgs,

    #[command(flatten)]
    data: DataArgs,

    /// How to group paths [default, as in a registry: plan with --plan, else dominator with --pop,
    /// --threshold or --weight, else size]
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Option<Strategy>,

    /// The file to write; its ending .json, .dot or .svg selects the format
    /// [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// The format of the output [default: by the ending of --out, else json with --out, else table]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
}

#[derive(Subcommand)]
// One is made per run.
#[allow(clippy::large_enum_variant)]
enum LayersCommand {
    Explain(explain::ExplainArgs),
    Compare(compare::CompareArgs),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line per layer
    Table,
    /// A list of layers with their store paths
    Json,
    /// A graph for Graphviz
    Dot,
    /// A picture, drawn by Graphviz
    Svg,
}

/// A layer in the JSON output; `contents` has its name from the original tool.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonLayer<'a> {
    contents: Vec<&'a StorePath>,
    nar_size: u64,
    rating: u64,
    reason: &'a str,
    /// The key of a layer with these paths in a bucket of the original Nixery.
    #[serde(rename = "original_key")]
    original_key: String,
}

pub(crate) async fn run(args: LayersArgs) -> Result<()> {
    match args.command {
        Some(LayersCommand::Explain(args)) => return explain::run(args).await,
        Some(LayersCommand::Compare(args)) => return compare::run(args).await,
        None => {}
    }
    let format = args
        .format
        .unwrap_or_else(|| by_ending(args.out.as_deref()));
    let data = args.data.load_for(&args.graph).await?;
    let strategy = data.one(args.strategy)?;
    let graph = args.graph.read().await?;
    let plan = strategy.plan(&graph, data.budget);
    let bytes = match format {
        Format::Table => to_table(&graph, &plan).into_bytes(),
        Format::Json => to_json(&graph, &plan)?,
        Format::Dot => to_dot(&graph, &plan).into_bytes(),
        Format::Svg => graphviz::svg(&to_dot(&graph, &plan))?,
    };
    output::write(args.out.as_deref(), &bytes)
}

fn by_ending(out: Option<&Path>) -> Format {
    let Some(out) = out.filter(|path| *path != Path::new("-")) else {
        return Format::Table;
    };
    match out.extension().and_then(|ending| ending.to_str()) {
        Some("dot" | "gv") => Format::Dot,
        Some("svg") => Format::Svg,
        Some("txt") => Format::Table,
        _ => Format::Json,
    }
}

fn to_json(graph: &ReferenceGraph, plan: &LayerPlan) -> Result<Vec<u8>> {
    let layers: Vec<_> = layer_rows(graph, plan)
        .into_iter()
        .map(|row| JsonLayer {
            original_key: original_layer_key(&row.paths),
            contents: row.paths,
            nar_size: row.nar_size,
            rating: row.rating,
            reason: row.reason,
        })
        .collect();
    let mut bytes = serde_json::to_vec_pretty(&layers)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The NAR bytes of all paths of a graph.
fn total_size(graph: &ReferenceGraph) -> u64 {
    u64::try_from(graph.total_nar_size()).unwrap_or(u64::MAX)
}
