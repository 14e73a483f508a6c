//! Reading the reference graph that a command is about.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nixery_builder::popcount::JsonKind;
use nixery_core::{ReferenceGraph, StorePath};

use crate::errors::Usage;

/// Which graph.
#[derive(clap::Args)]
pub(super) struct GraphArgs {
    /// The reference graph; `-` is standard input
    #[arg(value_name = "GRAPH", required_unless_present = "graph")]
    input: Option<PathBuf>,

    /// The same as GRAPH
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    graph: Option<PathBuf>,

    /// A root of the graph, for path-info input, which does not tell; may be repeated
    /// [default: the paths that no other refers to]
    #[arg(long = "root", value_name = "STORE-PATH")]
    roots: Vec<String>,
}

impl GraphArgs {
    /// What was asked for, in the user's words.
    pub(super) fn name(&self) -> String {
        match self.path() {
            path if path == Path::new("-") => "standard input".to_owned(),
            path => path.display().to_string(),
        }
    }

    fn path(&self) -> &Path {
        let path = self.input.as_deref().or(self.graph.as_deref());
        path.unwrap_or(Path::new("-"))
    }

    /// Reads it.
    pub(super) fn read(&self) -> Result<ReferenceGraph> {
        read_graph(self.path(), &self.roots)
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
