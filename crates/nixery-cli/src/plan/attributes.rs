//! Packages of a package set as a source of a plan: evaluated, built, and asked for their closures.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nixery_builder::EvaluationRequest;
use nixery_core::{Architecture, PackageSource, REQUIRED_PACKAGES, ReferenceGraph, Tag};
use nixery_server::config::{NixArgs, SourceArgs};

use crate::errors::Usage;
use crate::image;
use crate::progress::Reporter;

/// Which packages, of which set.
#[derive(Default, clap::Args)]
pub(super) struct AttributeArgs {
    /// Packages to build, as attributes of the package set, with their closures: `git,htop`
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    attrs: Vec<String>,

    /// A file that names one such package per line; lines that begin with `#` are passed over
    #[arg(long, value_name = "FILE")]
    attrs_file: Option<PathBuf>,

    /// The branch, tag or commit of a git package source
    #[arg(long, value_name = "TAG", default_value = "latest")]
    tag: String,

    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    nix: NixArgs,
}

impl AttributeArgs {
    /// Whether packages are to be built.
    pub(super) fn given(&self) -> bool {
        !self.attrs.is_empty() || self.attrs_file.is_some()
    }

    /// Where they come from, in a few words without folders.
    pub(super) fn described(&self) -> Option<String> {
        let source = self.given().then(|| self.source.source().ok())??;
        let PackageSource::Path(path) = &source else {
            return Some(format!("{source} {}", self.tag));
        };
        Some(path.file_name()?.to_string_lossy().into_owned())
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.attrs.iter().cloned().collect();
        if let Some(file) = &self.attrs_file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let lines = text.lines().map(str::trim);
            names.extend(
                lines
                    .filter(|line| !line.is_empty() && !line.starts_with('#'))
                    .map(str::to_owned),
            );
        }
        names.remove("");
        // What is in every image is in every sample.
        names.extend(REQUIRED_PACKAGES.iter().map(|&name| name.to_owned()));
        Ok(names.into_iter().collect())
    }

    /// Builds the packages; the graph has them as its roots.
    ///
    /// # Errors
    /// Wrong settings, packages that are missing or fail, or Nix cannot work.
    pub(super) async fn graph(&self, reporter: &mut Reporter) -> Result<ReferenceGraph> {
        let tag = Tag::parse(&self.tag).map_err(|error| Usage(error.to_string()))?;
        let packages = self.names()?;
        let wanted = |source: PackageSource| EvaluationRequest {
            source: source.resolve(&tag),
            packages,
            architecture: Architecture::default(),
        };
        image::graph(&self.source, &self.nix, wanted, reporter).await
    }
}
