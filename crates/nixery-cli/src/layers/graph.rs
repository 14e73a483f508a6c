//! Reading the reference graph that a command is about, or having Nix tell that of an image.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nixery_builder::BuildError;
use nixery_config::{Arguments, NixSettings};
use nixery_core::{GraphError, PackageSource, ReferenceGraph, StorePath};
use nixery_nix::EvaluationRequest;

use crate::errors::{BuildFailure, Usage};
use crate::image;
use crate::progress::Reporter;

/// Which graph.
#[derive(clap::Args)]
pub(super) struct GraphArgs {
    /// A reference graph: `-` for standard input, what ends in .json, or another file that exists.
    /// Anything else is an image, `NAME[:TAG]`, whose packages are built for it
    #[arg(value_name = "GRAPH|IMAGE", required_unless_present = "graph")]
    input: Option<PathBuf>,

    /// A reference graph, whatever its name
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    graph: Option<PathBuf>,

    /// A root of the graph, for path-info input, which does not tell; may be repeated
    /// [default: the paths that no other refers to]
    #[arg(long = "root", value_name = "STORE-PATH")]
    roots: Vec<String>,
}

/// Where the packages of an image come from.
#[derive(clap::Args)]
pub(super) struct ImageSourceArgs {
    #[command(flatten)]
    source: Arguments<PackageSource>,
    #[command(flatten)]
    nix: Arguments<NixSettings>,
}

impl GraphArgs {
    /// What was asked for, in the user's words.
    pub(super) fn name(&self) -> String {
        match self.path() {
            path if path == Path::new("-") => "standard input".to_owned(),
            path => path.display().to_string(),
        }
    }

    /// Whether it is an image and no file.
    pub(super) fn is_image(&self) -> bool {
        let Some(input) = &self.input else {
            return false;
        };
        let is_json = input.extension().is_some_and(|ending| ending == "json");
        // A folder may well be named as a package; a pipe is a file.
        let is_file = std::fs::metadata(input).is_ok_and(|found| !found.is_dir());
        input != Path::new("-") && !is_json && !is_file
    }

    fn path(&self) -> &Path {
        let path = self.input.as_deref().or(self.graph.as_deref());
        path.unwrap_or(Path::new("-"))
    }

    /// Reads it; of an image, has its packages built.
    ///
    /// # Errors
    /// There is no such file or image, or it cannot be read or built.
    pub(super) async fn read(&self, images: &ImageSourceArgs) -> Result<ReferenceGraph> {
        if !self.is_image() {
            return read_graph(self.path(), &self.roots);
        }
        if !self.roots.is_empty() {
            let message = "--root is for path-info input: the roots of an image are its packages";
            return Err(Usage(message.into()).into());
        }
        let name = self.name();
        let request = image::parse(&name).map_err(|error| {
            Usage(format!(
                "{name} is no file, and no name of an image: {error}"
            ))
        })?;
        let reporter = &mut Reporter::new(false);
        let wanted = |source: PackageSource| {
            EvaluationRequest::for_image(&request.name, source.resolve(&request.tag))
        };
        let graph = image::graph(&images.source, &images.nix, wanted, reporter).await;
        reporter.finish();
        graph.map_err(|error| match error.downcast_ref::<BuildFailure>() {
            Some(failure) if matches!(*failure.0, BuildError::NotFound { .. }) => {
                error.context(format!("{name} is no file, and no image can be made of it"))
            }
            _ => error,
        })
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
    match ReferenceGraph::from_json(&bytes, &roots) {
        Err(GraphError::RootsNotAllowed) => {
            let message = "--root is for path-info input: a reference graph names its roots";
            Err(Usage(message.into()).into())
        }
        graph => graph.with_context(|| format!("{name} is no reference graph")),
    }
}
