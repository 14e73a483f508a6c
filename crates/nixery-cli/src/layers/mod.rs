//! `nixery layers`: planning one graph or image, and its subcommands.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use nixery_core::{
    LayerPlan, ReferenceGraph, StorePath, layer_rows, original_layer_key, to_dot, to_table,
};
use serde::Serialize;

use crate::output;
use graph::{GraphArgs, ImageSourceArgs};
use strategies::{DataArgs, Strategy};

mod compare;
mod draw;
mod explain;
mod from_server;
mod graph;
mod graphviz;
mod replay;
mod sharing;
mod strategies;

/// Plan the layers of a reference graph or an image, and show which path goes where and why.
///
/// A graph is what Nix writes for exportReferencesGraph with structured attributes, or what
/// `nix path-info --json --recursive` prints. The flags are those of the older group-layers tool.
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
  nixery layers replay workload.json
  nixery layers replay --from-server --storage-path /var/lib/nixery

A file that is named as a command is: ./explain. The older tool separates paths from a popularity of
1000 on: --threshold 1000. The original's documented example comes out with --weight nar."
)]
pub(crate) struct LayersArgs {
    #[command(subcommand)]
    command: Option<LayersCommand>,

    #[command(flatten)]
    graph: GraphArgs,

    #[command(flatten)]
    data: DataArgs,

    /// How paths are grouped [default, as in a registry: plan with --plan, else dominator with --pop,
    /// --threshold or --weight, else size]
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Option<Strategy>,

    /// Where to write; the ending .json, .dot or .svg selects the format [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// What to write [default: by the ending of --out, else json with --out, else table]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,

    // Last: the flags after it would stand under its heading.
    #[command(flatten)]
    images: ImageSourceArgs,
}

#[derive(Subcommand)]
// One is made per run.
#[allow(clippy::large_enum_variant)]
enum LayersCommand {
    Explain(explain::ExplainArgs),
    Compare(compare::CompareArgs),
    Replay(replay::ReplayArgs),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line per layer
    Table,
    /// A list of layers with their contents
    Json,
    /// A picture for Graphviz
    Dot,
    /// A picture, drawn by Graphviz
    Svg,
}

/// A layer in the JSON output; `contents` is where the older tool has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonLayer<'a> {
    contents: Vec<&'a StorePath>,
    nar_size: u64,
    rating: u64,
    reason: &'a str,
    /// The key under which the original Nixery has a layer of these paths in its bucket.
    #[serde(rename = "original_key")]
    original_key: String,
}

pub(crate) async fn run(args: LayersArgs) -> Result<ExitCode> {
    match args.command {
        Some(LayersCommand::Explain(args)) => return explain::run(args).await,
        Some(LayersCommand::Compare(args)) => return compare::run(args).await,
        Some(LayersCommand::Replay(args)) => return replay::run(args).await,
        None => {}
    }
    let format = args
        .format
        .unwrap_or_else(|| by_ending(args.out.as_deref()));
    let data = args.data.load_for(&args.graph).await?;
    let strategy = data.one(args.strategy)?;
    let graph = args.graph.read(&args.images).await?;
    let plan = strategy.plan(&graph, data.budget);
    let bytes = match format {
        Format::Table => to_table(&graph, &plan).into_bytes(),
        Format::Json => to_json(&graph, &plan)?,
        Format::Dot => to_dot(&graph, &plan).into_bytes(),
        Format::Svg => graphviz::svg(to_dot(&graph, &plan))?,
    };
    output::write(args.out.as_deref(), &bytes)?;
    Ok(ExitCode::SUCCESS)
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
