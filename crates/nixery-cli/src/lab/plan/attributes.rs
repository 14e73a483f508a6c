//! Packages of a package set as a source of a plan: they are built for their closures.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nixery_builder::BuildError;
use nixery_config::{NixSettings, setup};
use nixery_core::{Architecture, PackageSource, REQUIRED_PACKAGES, ResolvedSource, Tag};
use nixery_lab::cluster_plan::PathCollection;
use nixery_lab::reference_sink::ReferenceSink;
use nixery_nix::{EvaluationRequest, PackageSetEvent, batches, every_package};

use crate::errors::{build_failure, usage};
use crate::image;
use crate::progress::{Reporter, Unit};
use crate::settings::PackageArgs;
use crate::signals::or_interrupted;

/// Packages of a package set.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("packages").multiple(true))]
pub(super) struct AttributeArgs {
    /// Packages to build, as attributes of the package set, with their closures: `git,htop`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', group = "packages")]
    attrs: Vec<String>,

    /// A file with one such package per line; lines that begin with `#` are ignored
    #[arg(long, value_name = "FILE", group = "packages")]
    attrs_file: Option<PathBuf>,

    /// Build all packages of the package set that nix-env finds, also in sets with
    /// recurseForDerivations. Packages with errors in their Nix code or build are left out
    /// and reported. Built packages stay in Nix's store, so the same command continues quickly
    /// after an interruption
    #[arg(long, conflicts_with_all = ["attrs", "attrs_file"], group = "packages")]
    all: bool,

    /// The branch, tag or commit of a git package source
    #[arg(
        long,
        value_name = "TAG",
        default_value = "latest",
        requires = "packages"
    )]
    tag: String,

    #[command(flatten)]
    set: PackageArgs,
}

impl AttributeArgs {
    /// Whether packages are to be built.
    pub(super) fn given(&self) -> bool {
        self.all || !self.attrs.is_empty() || self.attrs_file.is_some()
    }

    /// Returns a warning if a package set is given and none of its packages.
    pub(super) fn unused(&self) -> Option<&'static str> {
        (!self.given() && self.set.source.given()).then_some(
            "the package set is not used. Fix: select packages of it with --attrs, --attrs-file or --all",
        )
    }

    /// Describes the package set in a few words, without folders.
    pub(super) fn described(&self) -> Option<String> {
        let source = self.given().then(|| self.set.source.settings().ok())??;
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
            let packages = lines.filter(|line| !line.starts_with('#'));
            names.extend(packages.map(str::to_owned));
        }
        names.remove("");
        // Every image has these packages, and so has every sample.
        names.extend(REQUIRED_PACKAGES.iter().map(|&name| name.to_owned()));
        Ok(names.into_iter().collect())
    }

    /// Builds the packages and adds their closures.
    ///
    /// # Errors
    /// A setting is invalid, a named package is missing or fails, or Nix cannot work.
    pub(super) async fn add_to(
        &self,
        paths: &mut PathCollection,
        reporter: &Reporter,
    ) -> Result<()> {
        let tag = Tag::parse(&self.tag).map_err(usage)?;
        let (source, settings) = self.set.settings()?;
        let source = image::source_at(&source, &settings.channels, &tag)?;
        if self.all {
            return add_all(&source, &settings, paths, reporter).await;
        }
        let names = self.names()?;
        let mut done = 0;
        for batch in batches(&names) {
            let (source, packages) = (source.clone(), batch.to_vec());
            let request = EvaluationRequest::new(source, packages, Architecture::default());
            let graph = image::graph(&settings, &request, reporter).await?;
            paths.add_graph(&graph);
            done += batch.len();
            if batch.len() < names.len() {
                reporter.line(&format!("{done} of {} packages are built", names.len()));
            }
        }
        Ok(())
    }
}

async fn add_all(
    source: &ResolvedSource,
    settings: &NixSettings,
    paths: &mut PathCollection,
    reporter: &Reporter,
) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let nix = setup::nix(settings, folder.path(), setup::user_mirrors())?;
    let (mut packages, mut left_out) = (0, 0);
    let mut observe = |event| match event {
        PackageSetEvent::Built(graph) => paths.add_graph(&graph),
        PackageSetEvent::LeftOut { attribute, why } => {
            left_out += 1;
            reporter.line(&format!("left out: {attribute} {why}"));
        }
        PackageSetEvent::Progress { done, known, built } => {
            packages = built;
            let message = format!("{built} packages, {left_out} left out");
            let (done, known) = (done as u64, known as u64);
            reporter.at(Unit::Items, "attributes", done, known, &message);
        }
    };
    let architecture = Architecture::default();
    let work = every_package(&nix, source, architecture, folder.path(), &mut observe);
    let done = or_interrupted(work).await?;
    if let Err(error) = done {
        reporter.finish();
        return Err(build_failure(&nix, BuildError::from(error).into()).await);
    }
    reporter.line(&format!("{packages} packages built, {left_out} left out"));
    Ok(())
}
