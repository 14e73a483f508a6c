//! Reads the reference graph of a command, or lets Nix determine that of an image.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use nixery_builder::BuildError;
use nixery_core::{GraphError, ReferenceGraph, StorePath};
use nixery_nix::{EvaluationRequest, PackageError};

use crate::errors::usage;
use crate::progress::Reporter;
use crate::settings::PackageArgs;
use crate::{image, output};

/// A graph, or an image that has one.
#[derive(clap::Args)]
pub(super) struct GraphArgs {
    /// A reference graph: `-` for standard input, a name that ends in .json, or another existing
    /// file. Anything else is an image, `NAME[:TAG]`, whose packages are built for its graph
    #[arg(value_name = "GRAPH|IMAGE", required_unless_present = "graph")]
    input: Option<PathBuf>,

    /// A reference graph, whatever its name
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    graph: Option<PathBuf>,

    /// A root of the graph, for path-info input, which has no roots; may be repeated
    /// [default: the paths that no other path refers to]
    #[arg(long = "root", value_name = "STORE-PATH")]
    roots: Vec<String>,

    #[command(flatten)]
    packages: PackageArgs,
}

impl GraphArgs {
    /// The graph or image in the user's words.
    pub(super) fn name(&self) -> String {
        match self.path() {
            path if path == Path::new("-") => "standard input".to_owned(),
            path => path.display().to_string(),
        }
    }

    /// Whether the input is an image and not a file.
    pub(super) fn is_image(&self) -> bool {
        let Some(input) = &self.input else {
            return false;
        };
        let is_json = input.extension().is_some_and(|ending| ending == "json");
        // A folder may have the name of a package. A pipe is a file.
        let is_file = std::fs::metadata(input).is_ok_and(|found| !found.is_dir());
        input != Path::new("-") && !is_json && !is_file
    }

    fn path(&self) -> &Path {
        let path = self.input.as_deref().or(self.graph.as_deref());
        path.unwrap_or(Path::new("-"))
    }

    /// Reads the graph. The packages of an image are built.
    ///
    /// # Errors
    /// There is no such file or image, or it cannot be read or built.
    pub(super) async fn read(&self) -> Result<ReferenceGraph> {
        if !self.is_image() {
            return self.read_file();
        }
        if !self.roots.is_empty() {
            return Err(usage(
                "--root is only for path-info input: the roots of an image are its packages. Fix: remove --root",
            ));
        }
        let name = self.name();
        let request = image::parse(&name)
            .map_err(|error| usage(format!("{name} is not a file or an image name: {error}")))?;
        let reporter = Reporter::new(false);
        let (source, settings) = self.packages.settings()?;
        let source = image::source_at(&source, &settings.channels, &request.tag)?;
        let request = EvaluationRequest::for_image(&request.name, source);
        let graph = image::graph(&settings, &request, &reporter).await;
        reporter.finish();
        graph.map_err(|error| match error.downcast_ref::<Arc<BuildError>>() {
            Some(failure)
                if matches!(
                    **failure,
                    BuildError::Package(PackageError::NotFound { .. })
                ) =>
            {
                error.context(format!(
                    "{name} is not a file, and its image cannot be built"
                ))
            }
            _ => error,
        })
    }

    fn read_file(&self) -> Result<ReferenceGraph> {
        let bytes = output::read(self.path())?;
        let roots: Vec<_> = self
            .roots
            .iter()
            .map(|root| StorePath::parse(root))
            .collect::<Result<_, _>>()
            .map_err(|error| usage(format!("--root: {error}")))?;
        match ReferenceGraph::from_json(&bytes, &roots) {
            Err(GraphError::RootsNotAllowed) => Err(usage(
                "--root is only for path-info input: a reference graph has its roots. Fix: remove --root",
            )),
            graph => graph.with_context(|| format!("{} is not a reference graph", self.name())),
        }
    }
}
