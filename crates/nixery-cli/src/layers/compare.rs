//! `nixery layers compare`.

use std::path::PathBuf;

use anyhow::Result;
use nixery_core::{LayerPlan, PlannedLayer, ReferenceGraph};
use serde::Serialize;

use super::bars::{LayerBar, LayerPanel, layers_svg};
use super::graph::GraphArgs;
use super::sharing::Measure;
use super::strategies::{Data, DataArgs, Named, Strategy};
use super::total_size;
use crate::output;
use crate::progress::bytes;

/// Plan one graph with every strategy, and compare the number and sizes of layers.
///
/// `nixery lab replay` compares strategies for many images that change.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery layers compare shell/git/htop --pkgs-path ./packages
  nixery layers compare graph.json --pop popularity.json --plan nixpkgs.plan
  nixery layers compare graph.json --budget 20 --out layers.svg    a picture of all")]
pub(super) struct CompareArgs {
    #[command(flatten)]
    graph: GraphArgs,

    #[command(flatten)]
    data: DataArgs,

    /// Use only this strategy; may be repeated [default: all whose data is given]
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Vec<Strategy>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Also draw a picture (SVG) with the layers of each strategy as bars
    #[arg(long, short, value_name = "FILE", value_parser = output::file)]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    strategy: &'static str,
    id: String,
    layers: usize,
    nar_size: u64,
    /// NAR bytes, like all sizes; 0 without layers.
    largest: u64,
    median: u64,
    smallest: u64,
}

pub(super) async fn run(args: CompareArgs) -> Result<()> {
    let data = args.data.load_for(&args.graph).await?;
    let strategies = data.all(&args.strategy)?;
    let graph = args.graph.read().await?;
    let planned = |named: Named| {
        let plan = named.strategy.plan(&graph, data.budget);
        (named, plan)
    };
    let plans: Vec<_> = strategies.into_iter().map(planned).collect();
    let row = |(named, plan): &_| Row::new(named, plan, &graph);
    let rows: Vec<_> = plans.iter().map(row).collect();
    if let Some(out) = &args.out {
        let svg = picture(&args.graph.name(), &graph, &plans, &data);
        output::write(Some(out), svg.as_bytes())?;
    }
    output::result(args.json, &rows, || table(&rows, &graph))
}

impl Row {
    fn new(named: &Named, plan: &LayerPlan, graph: &ReferenceGraph) -> Self {
        let mut sizes: Vec<u64> = plan.layers.iter().map(|layer| layer.nar_size).collect();
        sizes.sort_unstable();
        Self {
            strategy: named.name,
            id: named.strategy.id(),
            layers: sizes.len(),
            nar_size: total_size(graph),
            largest: sizes.last().copied().unwrap_or_default(),
            median: sizes.get(sizes.len() / 2).copied().unwrap_or_default(),
            smallest: sizes.first().copied().unwrap_or_default(),
        }
    }
}

fn table(rows: &[Row], graph: &ReferenceGraph) -> String {
    let width = rows.iter().map(|row| row.strategy.len()).max();
    let width = width.unwrap_or_default().max(8);
    let line = |strategy, layers: &str, [largest, median, smallest]: [&str; 3]| {
        format!("{strategy:<width$}  {layers:>6}  {largest:>10}  {median:>10}  {smallest:>10}\n")
    };
    let mut text = line("strategy", "layers", ["largest", "median", "smallest"]);
    for row in rows {
        let sizes = [row.largest, row.median, row.smallest].map(bytes);
        let sizes = sizes.each_ref().map(String::as_str);
        text += &line(row.strategy, &row.layers.to_string(), sizes);
    }
    let total = bytes(total_size(graph));
    text + &format!("{} paths, {total} uncompressed\n", graph.len())
}

fn picture(
    name: &str,
    graph: &ReferenceGraph,
    plans: &[(Named, LayerPlan)],
    data: &Data,
) -> String {
    let measure = Measure::of(data, graph);
    let panel = |(named, plan): &(Named, LayerPlan)| {
        let bar = |(index, layer): (usize, &PlannedLayer)| {
            let sharing = measure.of_layer(layer);
            let (number, size, reason) = (index + 1, bytes(layer.nar_size), &layer.reason);
            LayerBar {
                size: layer.nar_size,
                shade: measure.shade(sharing),
                tip: format!(
                    "layer {number}: {size}\n{reason}\n{}",
                    measure.sentence(sharing)
                ),
            }
        };
        let largest = plan.layers.iter().map(|layer| layer.nar_size).max();
        let (layers, largest) = (plan.layers.len(), bytes(largest.unwrap_or_default()));
        LayerPanel {
            title: format!("{}: {layers} layers, the largest {largest}", named.name),
            bars: plan.layers.iter().enumerate().map(bar).collect(),
        }
    };
    let panels: Vec<LayerPanel> = plans.iter().map(panel).collect();
    let (paths, total) = (graph.len(), bytes(total_size(graph)));
    let heading = format!(
        "{name}: {paths} paths, {total}, in at most {} layers",
        data.budget
    );
    layers_svg(&heading, measure.meaning, &panels)
}
