//! `nixery build`.

mod destination;
mod report;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use nixery_builder::export::{Exported, write_docker_archive, write_oci_layout};
use nixery_builder::{Builder, Image, ImageRequest};
use nixery_config::{
    Arguments, ConfigErrors, LayeringSettings, NixSettings, StorageSettings, setup, start_text_log,
};
use nixery_core::PackageSource;
use nixery_state::gc::DEFAULT_GRACE;
use nixery_storage::Storage;

use crate::errors::build_failure;
use crate::progress::{Reporter, Unit};
use crate::signals::or_interrupted;
use crate::{image, output};
use destination::Destination;

/// Build an image of the packages that its name lists, and write it to a file or a directory.
///
/// Layers and finished images are kept in the blob store, the registry's by the same flags: what
/// it has is not built again. Source, store, Nix and layers are set as for `nixery serve`.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery build shell/git/htop --pkgs-path ./packages
      writes shell-git-htop.tar; podman load -i shell-git-htop.tar
  nixery build git:nixos-26.05 --output oci:images
      adds the image to the OCI layout images; skopeo copy oci:images:nixos-26.05 docker://…
  nixery build arm64/hello --output docker-archive:hello.tar:registry.example.org/hello:1
  nixery build shell/git --output store --json | jq -r .digest
      only fills the store, so that the registry need not build")]
pub(crate) struct BuildArgs {
    /// The image's name, which lists its packages, and a tag: the branch, tag or commit of a git
    /// package source [default tag: latest]
    #[arg(value_name = "NAME[:TAG]")]
    image: String,

    /// `docker-archive:FILE[:NAME:TAG]` for docker load and podman load, `oci:DIR[:TAG]` for an
    /// OCI layout, or `store` for the blob store only
    /// [default: docker-archive:NAME.tar, with dashes for slashes]
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
    source: Arguments<PackageSource>,
    #[command(flatten)]
    storage: Arguments<StorageSettings>,
    #[command(flatten)]
    nix: Arguments<NixSettings>,
    #[command(flatten)]
    layering: Arguments<LayeringSettings>,
}

/// Everything that is needed before the build begins.
struct Work {
    builder: Builder,
    storage: Arc<dyn Storage>,
    request: ImageRequest,
    destination: Destination,
    reporter: Reporter,
}

pub(crate) async fn run(args: BuildArgs) -> Result<ExitCode> {
    let (json, verbose) = (args.json, args.verbose);
    let work = or_interrupted(prepare(args)).await?;
    let builder = work.builder.clone();
    let done = or_interrupted(build(work, json, verbose)).await;
    if done.is_ok() {
        // The image is there already, and its graph is of use, not needed.
        let recorded = async {
            builder.drain().await;
            Ok(())
        };
        let _ = or_interrupted(recorded).await;
    }
    // Servers on the same store may be waiting for this build.
    builder.release_leases().await;
    done
}

async fn prepare(args: BuildArgs) -> Result<Work> {
    let request = image::parse(&args.image)?;
    let destination = match args.output {
        Some(destination) => destination,
        None => Destination::default_for(&request),
    };
    destination.check()?;

    let mut errors = ConfigErrors::default();
    let source = errors.part(args.source.settings());
    let storage = errors.part(args.storage.settings());
    let nix = errors.part(args.nix.settings());
    let layering = errors.part(args.layering.settings());
    let (Some(source), Some(store), Some(nix_settings), Some(layering)) =
        (source, storage, nix, layering)
    else {
        return Err(errors.into());
    };

    let filter = if args.verbose { "info" } else { "error" };
    start_text_log(filter);
    output::warn(store.ignored.iter().chain(&layering.ignored));
    let storage = setup::working_storage(&store).await?;
    let nix = Arc::new(setup::nix(&nix_settings, &store.spool)?);
    let reporter = Reporter::new(args.quiet);
    let builder = setup::builder(
        source,
        &nix_settings,
        &layering,
        &store.spool,
        nix,
        Arc::clone(&storage),
        DEFAULT_GRACE,
    )
    .await?;
    Ok(Work {
        builder,
        storage,
        request,
        destination,
        reporter,
    })
}

async fn build(work: Work, json: bool, verbose: bool) -> Result<ExitCode> {
    let (request, destination) = (&work.request, &work.destination);
    let mut reporter = work.reporter;
    let build = work.builder.start(request.clone());
    watch::watch(&build, &mut reporter, verbose).await;
    let image = match build.wait().await {
        Ok(image) => image,
        Err(error) => {
            reporter.finish();
            return Err(build_failure(&**work.builder.nix(), error).await);
        }
    };
    let exported = export(&image, &work.storage, destination, request, &mut reporter)
        .await
        .with_context(|| format!("the image is built, but not written to {destination}"));
    reporter.finish();
    exported?;
    let took = build.summary().elapsed;
    if json {
        output::json(&report::json(&image, request, destination, took))?;
    } else {
        output::text(&report::text(&image, request, destination, took))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn export(
    image: &Image,
    storage: &Arc<dyn Storage>,
    destination: &Destination,
    request: &ImageRequest,
    reporter: &mut Reporter,
) -> Result<Exported> {
    let (told, mut heard) = tokio::sync::watch::channel(0);
    let progress = move |bytes| told.send_modify(|done| *done += bytes);
    let write = async {
        let exported = match destination {
            Destination::Store => Exported::default(),
            Destination::Oci { directory, tag } => {
                let tag = tag.as_deref().unwrap_or(request.tag.as_str());
                write_oci_layout(image, storage, directory, tag, progress).await?
            }
            Destination::DockerArchive { file, reference } => {
                let reference = reference
                    .clone()
                    .unwrap_or_else(|| format!("{}:{}", request.name.as_str(), request.tag));
                write_docker_archive(image, storage, file, &[reference], progress).await?
            }
        };
        anyhow::Ok(exported)
    };
    let total = image.size() + image.config.size;
    let show = async {
        while heard.changed().await.is_ok() {
            let done = *heard.borrow_and_update();
            reporter.at(Unit::Bytes, "write", done, total, "");
        }
    };
    let (exported, ()) = tokio::join!(write, show);
    exported
}
