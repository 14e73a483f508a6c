//! `nixery build`.

mod destination;
mod report;
mod watch;

use std::sync::Arc;

use anyhow::{Context, Result};
use nixery_builder::export::{write_docker_archive, write_oci_layout};
use nixery_builder::{Builder, Image, ImageRequest};
use nixery_config::{
    Arguments, ConfigErrors, LayeringSettings, StorageSettings, setup, start_text_log,
};
use nixery_state::gc::DEFAULT_GRACE;
use nixery_storage::Storage;

use crate::errors::build_failure;
use crate::progress::{Reporter, Unit};
use crate::settings::PackageArgs;
use crate::signals::or_interrupted;
use crate::{image, output};
use destination::Destination;

/// Build an image of the packages that its name lists, and write it to a file or a directory.
///
/// The blob store keeps layers and images, so that they are not built again. The registry uses the
/// same store if `nixery serve` has the same storage flags.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery build shell/git/htop --pkgs-path ./packages
      writes shell-git-htop.tar; load it with podman load -i shell-git-htop.tar
  nixery build git:nixos-26.05 --output oci:images
      adds the image to the OCI layout in the directory images;
      push it with skopeo copy oci:images:nixos-26.05 docker://…
  nixery build arm64/hello --output docker-archive:hello.tar:registry.example.org/hello:1
      names the image registry.example.org/hello:1 in the archive
  nixery build shell/git --output store --json | jq -r .digest
      only fills the store, from which the registry serves the image without building it")]
pub(crate) struct BuildArgs {
    /// The image's name, which lists its packages. The tag is a channel, or a branch, tag or
    /// commit of a git package source, or the version of the first package [default tag: latest]
    #[arg(value_name = "NAME[:TAG]")]
    image: String,

    /// `docker-archive:FILE[:NAME:TAG]` for docker load and podman load, `oci:DIR[:TAG]` for an
    /// OCI layout, or `store` for the blob store only
    /// [default: docker-archive:NAME.tar, with dashes instead of slashes]
    #[arg(short, long, value_name = "OUTPUT", value_parser = Destination::parse)]
    output: Option<Destination>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    /// Show no progress; only print the result
    #[arg(short, long)]
    quiet: bool,

    /// Show the lines that Nix writes
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,

    #[command(flatten)]
    packages: PackageArgs,
    #[command(flatten)]
    storage: Arguments<StorageSettings>,
    #[command(flatten)]
    layering: Arguments<LayeringSettings>,
}

/// A build that is ready to start.
struct Job {
    builder: Builder,
    storage: Arc<dyn Storage>,
    request: ImageRequest,
    destination: Destination,
    reporter: Reporter,
    json: bool,
    verbose: bool,
}

pub(crate) async fn run(args: BuildArgs) -> Result<()> {
    let job = or_interrupted(Job::prepare(args)).await??;
    let result = or_interrupted(job.run()).await;
    if matches!(result, Ok(Ok(()))) {
        // Waits until the graph is recorded. A signal ends the wait, but the command succeeds: the
        // image is complete without the record.
        let _ = or_interrupted(job.builder.drain()).await;
    }
    // Other servers on the store may be waiting for this build.
    job.builder.release_leases().await;
    result?
}

impl Job {
    async fn prepare(args: BuildArgs) -> Result<Self> {
        let request = image::parse(&args.image)?;
        let destination = match args.output {
            Some(destination) => destination,
            None => Destination::default_for(&request),
        };
        destination.check()?;

        let images = ConfigErrors::both(args.storage.settings(), args.layering.settings());
        let ((source, nix_settings), (store, layering)) =
            ConfigErrors::both(args.packages.settings(), images)?;

        start_text_log(if args.verbose { "info" } else { "error" });
        output::warn(store.ignored.iter().chain(&layering.ignored));
        let storage = setup::working_storage(&store).await?;
        let nix = setup::nix(&nix_settings, &store.spool, None)?;
        let reporter = Reporter::new(args.quiet);
        let builder = setup::builder(
            source,
            &nix_settings,
            &layering,
            &store,
            Arc::new(nix),
            Arc::clone(&storage),
            DEFAULT_GRACE,
        )
        .await?;
        Ok(Self {
            builder,
            storage,
            request,
            destination,
            reporter,
            json: args.json,
            verbose: args.verbose,
        })
    }

    async fn run(&self) -> Result<()> {
        let (request, destination, reporter) = (&self.request, &self.destination, &self.reporter);
        let build = self.builder.start(request.clone());
        watch::watch(&build, reporter, self.verbose).await;
        let image = match build.wait().await {
            Ok(image) => image,
            Err(error) => {
                reporter.finish();
                return Err(build_failure(&**self.builder.nix(), error).await);
            }
        };
        let exported = self.export(&image).await;
        reporter.finish();
        exported.with_context(|| format!("cannot write the built image to {destination}"))?;
        let elapsed = build.summary().elapsed;
        let report = report::json(&image, request, destination, elapsed);
        output::result(self.json, &report, || {
            report::text(&image, request, destination, elapsed)
        })
    }

    async fn export(&self, image: &Image) -> Result<()> {
        let total = image.size() + image.config.size;
        let (reporter, mut done) = (self.reporter.clone(), 0);
        let progress = move |bytes| {
            done += bytes;
            reporter.at(Unit::Bytes, "write", done, total, "");
        };
        let (request, storage) = (&self.request, &self.storage);
        match &self.destination {
            Destination::Store => {}
            Destination::Oci { directory, tag } => {
                let tag = tag.as_deref().unwrap_or(request.tag.as_str());
                write_oci_layout(image, storage, directory, tag, progress).await?;
            }
            Destination::DockerArchive { file, reference } => {
                let reference = reference
                    .clone()
                    .unwrap_or_else(|| format!("{}:{}", request.name.as_str(), request.tag));
                write_docker_archive(image, storage, file, &[reference], progress).await?;
            }
        }
        Ok(())
    }
}
