//! Packages of a package set as a source of a plan: evaluated, built, and asked for their closures.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nixery_builder::BuildError;
use nixery_config::{Arguments, NixSettings, setup};
use nixery_core::{Architecture, PackageSource, REQUIRED_PACKAGES, Tag};
use nixery_lab::cluster_plan::PathCollection;
use nixery_lab::reference_sink::ReferenceSink;
use nixery_nix::{EvaluationRequest, PackageSetEvent, batches, every_package};

use crate::errors::{Usage, build_failure};
use crate::image;
use crate::progress::{Reporter, Unit};
use crate::signals::or_interrupted;

/// Which packages, of which set.
#[derive(Default, clap::Args)]
#[command(group = clap::ArgGroup::new("packages").multiple(true))]
pub(super) struct AttributeArgs {
    /// Packages to build, as attributes of the package set, with their closures: `git,htop`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', group = "packages")]
    attrs: Vec<String>,

    /// A file that names one such package per line; lines that begin with `#` are passed over
    #[arg(long, value_name = "FILE", group = "packages")]
    attrs_file: Option<PathBuf>,

    /// All packages of the package set, as nix-env finds them (also in sets with recurseForDerivations);
    /// what does not evaluate or build is left out and told. What is built stays in Nix's store until
    /// its garbage is collected, so after an interruption the same command soon is where it was
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
    source: Arguments<PackageSource>,
    #[command(flatten)]
    nix: Arguments<NixSettings>,
}

impl AttributeArgs {
    /// Whether packages are to be built.
    pub(super) fn given(&self) -> bool {
        self.all || !self.attrs.is_empty() || self.attrs_file.is_some()
    }

    /// What to warn of where a package set is given and nothing of it is asked for.
    pub(super) fn unused(&self) -> Option<&'static str> {
        (!self.given() && self.source.given()).then_some(
            "the package set is not used: --attrs, --attrs-file or --all say what to take of it",
        )
    }

    /// Where they come from, in a few words without folders.
    pub(super) fn described(&self) -> Option<String> {
        let source = self.given().then(|| self.source.settings().ok())??;
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

    /// Builds the packages and adds their closures.
    ///
    /// # Errors
    /// Wrong settings, named packages that are missing or fail, or Nix cannot work.
    pub(super) async fn add_to(
        &self,
        paths: &mut PathCollection,
        reporter: &mut Reporter,
    ) -> Result<()> {
        let tag = Tag::parse(&self.tag).map_err(|error| Usage(error.to_string()))?;
        if self.all {
            return self.add_all(&tag, paths, reporter).await;
        }
        let names = self.names()?;
        let mut done = 0;
        for packages in batches(&names) {
            let wanted = |source: PackageSource| {
                let source = source.resolve(&tag);
                EvaluationRequest::new(source, packages.to_vec(), Architecture::default())
            };
            let graph = image::graph(&self.source, &self.nix, wanted, reporter).await?;
            paths.add_graph(&graph);
            done += packages.len();
            if packages.len() < names.len() {
                reporter.line(&format!("{done} of {} packages are built", names.len()));
            }
        }
        Ok(())
    }

    async fn add_all(
        &self,
        tag: &Tag,
        paths: &mut PathCollection,
        reporter: &mut Reporter,
    ) -> Result<()> {
        let (source, settings) = image::settings(&self.source, &self.nix)?;
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let nix = setup::nix(&settings, folder.path())?;
        let (mut packages, mut left_out) = (0, 0);
        let mut tell = |event| match event {
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
        let source = source.resolve(tag);
        let work = every_package(
            &nix,
            &source,
            Architecture::default(),
            folder.path(),
            &mut tell,
        );
        let done = or_interrupted(async { Ok(work.await) }).await?;
        if let Err(error) = done {
            reporter.finish();
            return Err(build_failure(&nix, BuildError::from(error).into()).await);
        }
        reporter.line(&format!("{packages} packages built, {left_out} left out"));
        Ok(())
    }
}
