//! `nixery layers`.

use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nixery_builder::load_popularity;
use nixery_builder::popcount::JsonKind;
use nixery_core::draw::{layer_rows, to_dot, to_table};
use nixery_core::plan::{DEFAULT_BUDGET, DEFAULT_THRESHOLD};
use nixery_core::{
    Dominator, LayerPlan, LayerStrategy, Popularity, ReferenceGraph, StorePath, Weight,
};
use serde::Serialize;

use crate::errors::Usage;
use crate::output;

/// Plan the layers of a reference graph, and show which path goes where and why.
///
/// The graph is what Nix writes for exportReferencesGraph with structured attributes, or what
/// `nix path-info --json --recursive` prints. The flags are those of the older group-layers tool.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nix path-info --json --recursive $(which git) | nixery layers -
  nixery layers graph.json --pop popularity.json --budget 20
  nixery layers --graph graph.json --pop popularity.json --out layers.json
  nixery layers graph.json --out layers.svg          a picture, by Graphviz
  nixery layers graph.json --format dot | dot -Tpdf > layers.pdf

The older tool separates paths from a popularity of 1000 on: --threshold 1000. The original's
documented example comes out with --weight nar.")]
pub(crate) struct LayersArgs {
    /// The reference graph; `-` is standard input
    #[arg(value_name = "GRAPH", required_unless_present = "graph")]
    input: Option<PathBuf>,

    /// The same as GRAPH
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    graph: Option<PathBuf>,

    /// Popularity data, as `nixery popcount` writes it: a path or a URL [default: none]
    #[arg(long, value_name = "FILE", visible_alias = "popularity")]
    pop: Option<String>,

    /// Where to write; the ending .json, .dot or .svg selects the format [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Most layers
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_BUDGET)]
    budget: NonZeroUsize,

    /// What to write [default: by the ending of --out, else json with --out, else table]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,

    /// How paths are grouped
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Strategy::Dominator)]
    strategy: Strategy,

    /// Popularity from which a path is separated from what needs it
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_THRESHOLD)]
    threshold: u64,

    /// The size that a path weighs when groups are merged
    #[arg(long, value_enum, value_name = "SIZE", default_value_t = WeightName::Closure)]
    weight: WeightName,

    /// A root of the graph, for path-info input, which does not tell; may be repeated
    /// [default: the paths that no other refers to]
    #[arg(long = "root", value_name = "STORE-PATH")]
    roots: Vec<String>,
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

#[derive(Clone, Copy, ValueEnum)]
enum Strategy {
    /// The original's: dominator trees, popularity times size
    Dominator,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightName {
    /// With all it references, as the original's code has it
    #[value(alias = "closure-size")]
    Closure,
    /// The path alone
    #[value(alias = "nar-size")]
    Nar,
}

/// A layer in the JSON output; `contents` is where the older tool has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonLayer<'a> {
    contents: Vec<&'a StorePath>,
    nar_size: u64,
    rating: u64,
    reason: &'a str,
}

pub(crate) async fn run(args: LayersArgs) -> Result<ExitCode> {
    let format = args
        .format
        .unwrap_or_else(|| by_ending(args.out.as_deref()));
    let popularity = match &args.pop {
        Some(location) => load_popularity(location).await?,
        None => Popularity::default(),
    };
    let path = args.input.or(args.graph).unwrap_or_default();
    let graph = read_graph(&path, &args.roots)?;
    let strategy = match args.strategy {
        Strategy::Dominator => Dominator {
            popularity: Arc::new(popularity),
            threshold: args.threshold,
            weight: match args.weight {
                WeightName::Closure => Weight::ClosureSize,
                WeightName::Nar => Weight::NarSize,
            },
        },
    };
    let plan = strategy.plan(&graph, args.budget);
    let bytes = match format {
        Format::Table => to_table(&graph, &plan).into_bytes(),
        Format::Json => to_json(&graph, &plan)?,
        Format::Dot => to_dot(&graph, &plan).into_bytes(),
        Format::Svg => svg(to_dot(&graph, &plan))?,
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

fn read_graph(path: &Path, roots: &[String]) -> Result<ReferenceGraph> {
    let (name, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = io::stdin().read_to_end(&mut bytes);
        ("standard input".to_owned(), read.map(|_| bytes))
    } else {
        (path.display().to_string(), std::fs::read(path))
    };
    let bytes = bytes.with_context(|| format!("cannot read {name}"))?;
    let roots: Vec<_> = roots
        .iter()
        .map(|root| StorePath::parse(root))
        .collect::<Result<_, _>>()
        .map_err(|error| Usage(format!("--root: {error}")))?;
    let graph = match JsonKind::of(&bytes) {
        Some(JsonKind::Graph) if roots.is_empty() => ReferenceGraph::parse(&bytes),
        Some(JsonKind::Graph) => {
            let message = "--root is for path-info input: a reference graph names its roots";
            return Err(Usage(message.into()).into());
        }
        Some(JsonKind::PathInfo) => with_roots(&bytes, &roots),
        None => bail!(
            "{name} is no reference graph: expected the JSON of exportReferencesGraph or of nix path-info"
        ),
    };
    graph.with_context(|| format!("{name} is no reference graph"))
}

/// Without given roots, those are roots that no other path leads to.
fn with_roots(
    bytes: &[u8],
    roots: &[StorePath],
) -> Result<ReferenceGraph, nixery_core::GraphError> {
    let graph = ReferenceGraph::from_path_info(bytes, roots)?;
    if !roots.is_empty() {
        return Ok(graph);
    }
    let entries: Vec<_> = graph
        .entry_points()
        .into_iter()
        .filter_map(|index| Some(graph.nodes().get(index)?.path.clone()))
        .collect();
    ReferenceGraph::from_path_info(bytes, &entries)
}

fn to_json(graph: &ReferenceGraph, plan: &LayerPlan) -> Result<Vec<u8>> {
    let layers: Vec<_> = layer_rows(graph, plan)
        .into_iter()
        .map(|row| JsonLayer {
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

/// Has Graphviz draw it.
fn svg(dot: String) -> Result<Vec<u8>> {
    let spawned = Command::new("dot")
        .arg("-Tsvg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "SVG needs Graphviz, and there is no dot program: install it (apt-get install graphviz, or nix-shell -p graphviz), or use --format dot"
        ),
        other => other.context("cannot run Graphviz's dot")?,
    };
    let stdin = child.stdin.take();
    // It writes while it reads: one thread each, or both would wait.
    let feeder = std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(dot.as_bytes())));
    let output = child
        .wait_with_output()
        .context("cannot run Graphviz's dot")?;
    let _ = feeder.join();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("Graphviz's dot failed ({}): {}", output.status, said.trim());
    }
    Ok(output.stdout)
}
