//! `nixery layers compare`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::draw::{LayerBar, LayerPanel, layers_svg};
use anyhow::Result;
use nixery_core::{LayerPlan, PlannedLayer, ReferenceGraph};
use serde::Serialize;

use super::graph::{GraphArgs, ImageSourceArgs};
use super::sharing::Measure;
use super::strategies::{Data, DataArgs, Named, Strategy};
use crate::output;
use crate::progress::bytes;

/// Plan one graph with every strategy: how many layers, and how large.
///
/// How good a strategy is shows with many images that change: see `nixery layers replay`.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery layers compare shell/git/htop --pkgs-path ./packages
  nixery layers compare graph.json --pop popularity.json --plan nixpkgs.plan
  nixery layers compare graph.json --budget 20 --out layers.svg    a picture of all, side by side")]
pub(super) struct CompareArgs {
    #[command(flatten)]
    graph: GraphArgs,

    #[command(flatten)]
    data: DataArgs,

    /// Only this strategy; may be repeated [default: all that there is data for]
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Vec<Strategy>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Draws a picture (SVG) as well: the layers of each strategy as bars
    #[arg(long, short, value_name = "FILE", value_parser = output::file)]
    out: Option<PathBuf>,

    // Last: the flags after it would stand under its heading.
    #[command(flatten)]
    images: ImageSourceArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    strategy: &'static str,
    id: String,
    layers: usize,
    nar_size: u64,
    /// NAR bytes, as all sizes; 0 without layers.
    largest: u64,
    median: u64,
    smallest: u64,
}

pub(super) async fn run(args: CompareArgs) -> Result<ExitCode> {
    let data = args.data.load_for(&args.graph).await?;
    let strategies = data.all(&args.strategy)?;
    let graph = args.graph.read(&args.images).await?;
    let plans: Vec<(Named, LayerPlan)> = strategies
        .into_iter()
        .map(|named| {
            let plan = named.strategy.plan(&graph, data.budget);
            (named, plan)
        })
        .collect();
    let rows: Vec<Row> = plans
        .iter()
        .map(|(named, plan)| Row::new(named, plan, &graph))
        .collect();
    if let Some(out) = &args.out {
        let svg = picture(&args.graph.name(), &graph, &plans, &data);
        output::write(Some(out), svg.as_bytes())?;
    }
    if args.json {
        output::json(&rows)?;
    } else {
        output::text(&table(&rows, &graph))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn new(named: &Named, plan: &LayerPlan, graph: &ReferenceGraph) -> Self {
        let mut sizes: Vec<u64> = plan.layers.iter().map(|layer| layer.nar_size).collect();
        sizes.sort_unstable();
        Self {
            strategy: named.name,
            id: named.strategy.id(),
            layers: sizes.len(),
            nar_size: u64::try_from(graph.total_nar_size()).unwrap_or(u64::MAX),
            largest: sizes.last().copied().unwrap_or_default(),
            median: sizes.get(sizes.len() / 2).copied().unwrap_or_default(),
            smallest: sizes.first().copied().unwrap_or_default(),
        }
    }
}

fn table(rows: &[Row], graph: &ReferenceGraph) -> String {
    let width = rows
        .iter()
        .map(|row| row.strategy.len())
        .max()
        .unwrap_or(0)
        .max(8);
    let mut text = format!(
        "{:<width$}  {:>6}  {:>10}  {:>10}  {:>10}\n",
        "strategy", "layers", "largest", "median", "smallest"
    );
    for row in rows {
        let (largest, median) = (bytes(row.largest), bytes(row.median));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<width$}  {:>6}  {largest:>10}  {median:>10}  {:>10}",
            row.strategy,
            row.layers,
            bytes(row.smallest)
        );
    }
    let total = bytes(u64::try_from(graph.total_nar_size()).unwrap_or(u64::MAX));
    let _ = writeln!(text, "{} paths, {total} uncompressed", graph.len());
    text
}

fn picture(
    name: &str,
    graph: &ReferenceGraph,
    plans: &[(Named, LayerPlan)],
    data: &Data,
) -> String {
    let measure = Measure::of(data, graph);
    let panel = |(named, plan): &(Named, LayerPlan)| {
        let bar = |(place, layer): (usize, &PlannedLayer)| {
            let sharing = measure.of_layer(graph, layer);
            let (size, number) = (bytes(layer.nar_size), place + 1);
            let mut tip = format!("layer {number}: {size}\n{}", layer.reason);
            if let Some(sharing) = sharing {
                tip = format!("{tip}\n{}", measure.sentence(sharing));
            }
            LayerBar {
                size: layer.nar_size,
                shade: measure.shade(sharing),
                tip,
            }
        };
        let largest = plan.layers.iter().map(|layer| layer.nar_size).max();
        LayerPanel {
            title: format!(
                "{}: {} layers, the largest {}",
                named.name,
                plan.layers.len(),
                bytes(largest.unwrap_or_default())
            ),
            bars: plan.layers.iter().enumerate().map(bar).collect(),
        }
    };
    let panels: Vec<LayerPanel> = plans.iter().map(panel).collect();
    let total = bytes(u64::try_from(graph.total_nar_size()).unwrap_or(u64::MAX));
    let heading = format!(
        "{name}: {} paths, {total}, in at most {} layers",
        graph.len(),
        data.budget
    );
    layers_svg(&heading, measure.meaning(), &panels)
}
