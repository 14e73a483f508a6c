//! The main flow: from a request to an image whose blobs are all stored.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures::future::{self, Either, try_join};
use nixery_core::{LayerStrategy, ReferenceGraph, ResolvedSource, StorePath};
use nixery_manifest::{Digest, assemble};
use nixery_nix::{Evaluation, EvaluationRequest, NixError, PackageError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::disk;
use crate::engine::{Engine, queue};
use crate::error::BuildError;
use crate::fair_limit::FairPermit;
use crate::handle::BuildHandle;
use crate::image::{BuildStats, Image};
use crate::image_lease::{ImageOrLease, find_or_lease};
use crate::image_store;
use crate::layers::{self, KnownLayer};
use crate::progress::Phase;
use crate::recipe::Recipe;

/// An image, and the reference graph of its contents if the image was built and not found.
pub(crate) type Built = (Image, Option<ReferenceGraph>);

/// Builds the image of a handle, or finds it in the store. The layers are grouped by `strategy`,
/// even if the builder gets another one meanwhile.
pub(crate) async fn build(
    engine: &Engine,
    strategy: Arc<dyn LayerStrategy>,
    handle: &BuildHandle,
) -> Result<Built, BuildError> {
    let source = resolve(engine, handle).await?;
    let (config, request) = (&engine.config, handle.request());
    let configuration = engine.nix.configuration(&source);
    let recipe = Recipe::new(config, &*strategy, request, &source, configuration);

    // An image of a source that cannot change is found, or waited for, without Nix.
    let pinned = recipe.pinned_key();
    let (pinned_lease, may_evaluate) = match pinned {
        None => (None, queue(&engine.evaluations, handle).await?),
        Some(key) => match find_or_lease(engine, handle, key, &engine.evaluations).await? {
            ImageOrLease::Image(image) => {
                let image = with_checked_versions(engine, handle, &source, *image).await?;
                return Ok((image, None));
            }
            ImageOrLease::Lease(lease, permit) => (Some(lease), permit),
        },
    };
    let evaluation = evaluate(engine, handle, &source, may_evaluate).await?;
    let versions = Arc::new(evaluation.versions());
    // Nothing is built if each request wants another version.
    handle.check_versions(&versions)?;

    // Any other image is found by what its packages evaluate to.
    let key = pinned.unwrap_or_else(|| recipe.evaluated_key(&evaluation));
    let (lease, may_realise) = match pinned_lease {
        Some(lease) => (lease, queue(&engine.realisations, handle).await?),
        None => match find_or_lease(engine, handle, key, &engine.realisations).await? {
            ImageOrLease::Image(mut image) => {
                image.versions = Some(versions);
                return Ok((*image, None));
            }
            ImageOrLease::Lease(lease, permit) => (lease, permit),
        },
    };

    disk::check(&*engine.storage, engine.config.spool_dir.clone()).await?;

    // Until the layers are stored, Nix must not collect the closure as garbage.
    let gc_roots = engine.instance.gc_roots();
    let gc_roots = gc_roots.map_err(BuildError::no_gc_roots)?;
    realise(engine, &evaluation, gc_roots.path(), handle, may_realise).await?;

    let (mut image, graph) = make(engine, &strategy, handle, &recipe, key, &evaluation).await?;
    image.versions = Some(versions);
    drop(gc_roots);

    image_store::save(engine, &image).await?;
    drop(lease);
    Ok((image, Some(graph)))
}

/// Finds the revision of the source, before the image is looked up: a revision that is not allowed
/// has no image. If the tag is no branch or tag of the source but a version, the revision is that
/// of the default branch.
async fn resolve(engine: &Engine, handle: &BuildHandle) -> Result<ResolvedSource, BuildError> {
    let target = handle.target();
    let source = &target.source;
    if source.src_type == "git" {
        handle.enter(Phase::Fetch);
    }
    let begun = Instant::now();
    let mut resolved = engine.nix.resolve(source, handle.log()).await;
    if let Some(default_branch) = &target.default_branch {
        match &resolved {
            Err(NixError::Package(PackageError::UnknownRevision { revision, .. })) => {
                let text =
                    format!("no branch or tag is called {revision}: it is taken as a version");
                handle.log().push(&text);
                handle.take_default_branch();
                resolved = engine.nix.resolve(default_branch, handle.log()).await;
            }
            Ok(_) => handle.drop_assertions(),
            Err(_) => {}
        }
    }
    let resolved = resolved.map_err(|error| BuildError::from_nix(error, Phase::Fetch))?;
    if resolved.revision.is_some() {
        handle.source_is_read(begun);
    }
    Ok(resolved)
}

/// Checks what requests assert about an image that was found by its revision. If a request asserts
/// a version and the record of the image has none, the packages are evaluated.
async fn with_checked_versions(
    engine: &Engine,
    handle: &BuildHandle,
    source: &ResolvedSource,
    mut image: Image,
) -> Result<Image, BuildError> {
    if image.versions.is_none() && !handle.needs_no_versions() {
        let permit = queue(&engine.evaluations, handle).await?;
        let evaluation = evaluate(engine, handle, source, permit).await?;
        image.versions = Some(Arc::new(evaluation.versions()));
        // Only saves the next evaluation.
        if let Err(error) = image_store::save_record(engine, &image).await {
            tracing::warn!(image = %handle.request().name, %error, "cannot write the versions of packages into a record");
        }
    }
    if let Some(versions) = &image.versions {
        // The image is there, so it is kept in memory whether or not a request accepts it.
        let _ = handle.check_versions(versions);
    }
    Ok(image)
}

/// Makes the layers and the documents of an image whose packages are built.
async fn make(
    engine: &Engine,
    strategy: &Arc<dyn LayerStrategy>,
    handle: &BuildHandle,
    recipe: &Recipe<'_>,
    key: Digest,
    evaluation: &Evaluation,
) -> Result<(Image, ReferenceGraph), BuildError> {
    let mut has_forgotten = false;
    loop {
        // The documents are written while the layers are still being stored.
        let (announce, layers) = mpsc::unbounded_channel();
        let (written, graph) = try_join(
            write_documents(engine, handle, recipe, key, layers),
            store_layers(engine, Arc::clone(strategy), evaluation, handle, announce),
        )
        .await?;
        match written {
            WrittenDocuments::Of(image) => return Ok((*image, graph)),
            WrittenDocuments::None { wrong } if !has_forgotten => {
                layers::forget(engine, &wrong).await?;
                has_forgotten = true;
                handle.update(|progress| (progress.layers_done, progress.bytes_done) = (0, 0));
            }
            WrittenDocuments::None { .. } => {
                return Err(BuildError::internal("two layers of the image are the same"));
            }
        }
    }
}

async fn evaluate(
    engine: &Engine,
    handle: &BuildHandle,
    source: &ResolvedSource,
    _permit: FairPermit,
) -> Result<Evaluation, BuildError> {
    handle.enter(Phase::Evaluate);
    handle.source_is_read(Instant::now());
    let request = EvaluationRequest::for_image(&handle.request().name, source.clone());
    let evaluation = engine.nix.evaluate(&request, handle.log()).await;
    evaluation.map_err(|error| BuildError::from_nix(error, Phase::Evaluate))
}

async fn realise(
    engine: &Engine,
    evaluation: &Evaluation,
    gc_roots: &Path,
    handle: &BuildHandle,
    _permit: FairPermit,
) -> Result<(), BuildError> {
    handle.enter(Phase::Realise);
    let realised = engine.nix.realise(evaluation, gc_roots, handle.log()).await;
    realised.map_err(|error| BuildError::from_nix(error, Phase::Realise))
}

/// Stores the root layer and, at the same time, the layers of the closure of the packages.
async fn store_layers(
    engine: &Engine,
    strategy: Arc<dyn LayerStrategy>,
    realised: &Evaluation,
    handle: &BuildHandle,
    announce: mpsc::UnboundedSender<KnownLayer>,
) -> Result<ReferenceGraph, BuildError> {
    let roots = realised.store_paths();
    let graph = read_graph(engine, &roots, handle);
    // Nothing is packed for a closure that is too large. Without a limit, the root layer is packed
    // while Nix prints the graph.
    let graph = match engine.config.max_closure_size {
        Some(_) => Either::Left(future::ok(graph.await?)),
        None => Either::Right(graph),
    };
    let root_layer = layers::store_root_layer(engine, roots.clone(), handle, announce.clone());
    let closure_layers = async {
        let graph = graph.await?;
        handle.enter(Phase::Plan);
        let (graph, plan) = layers::plan(engine, strategy, graph).await?;

        handle.enter(Phase::Pack);
        layers::store_all(engine, &graph, &plan, handle, announce).await?;
        Ok(graph)
    };
    let ((), graph) = try_join(root_layer, closure_layers).await?;
    Ok(graph)
}

/// Reads the closure of the packages, and checks its size.
async fn read_graph(
    engine: &Engine,
    roots: &[StorePath],
    handle: &BuildHandle,
) -> Result<ReferenceGraph, BuildError> {
    handle.enter(Phase::Graph);
    let graph = engine.nix.reference_graph(roots, handle.log()).await;
    let graph = graph.map_err(|error| BuildError::from_nix(error, Phase::Graph))?;
    engine.config.check_closure(&graph)?;
    Ok(graph)
}

/// The documents of an image, unless a layer was found by a wrong record.
enum WrittenDocuments {
    Of(Box<Image>),
    /// Two different layers have one blob, which cannot be. At least one of these records is wrong.
    None {
        wrong: Vec<Digest>,
    },
}

/// Writes config and manifests as soon as the digests of all layers are known, and stores the
/// config. The config names diff IDs and no blobs, so the layers may still be on their way.
///
/// Ends as soon as the known layers are larger than an image may be. No other layer is packed then,
/// as the caller drops [`store_layers`].
async fn write_documents(
    engine: &Engine,
    handle: &BuildHandle,
    recipe: &Recipe<'_>,
    key: Digest,
    mut known: mpsc::UnboundedReceiver<KnownLayer>,
) -> Result<WrittenDocuments, BuildError> {
    let (mut layers, mut root, mut summaries) = (Vec::new(), None, Vec::new());
    // The records by which each blob was found.
    let mut records: HashMap<Digest, Vec<Option<Digest>>> = HashMap::new();
    let mut size: u64 = 0;
    while let Some(layer) = known.recv().await {
        let of_blob = records.entry(layer.summary.digest).or_default();
        if of_blob.is_empty() {
            size = size.saturating_add(layer.summary.size);
        }
        of_blob.push(layer.record);
        engine.config.check_layers(size)?;
        if layer.is_root() {
            root = Some(layer.image_layer);
        } else {
            layers.push(layer.image_layer);
        }
        summaries.push(layer.summary);
    }
    records.retain(|_, records| records.len() > 1);
    if !records.is_empty() {
        let wrong = records.into_values().flatten().flatten().collect();
        return Ok(WrittenDocuments::None { wrong });
    }
    let root = root.ok_or_else(|| BuildError::internal("the image has no root layer"))?;
    handle.enter(Phase::Assemble);
    let assembled = assemble(recipe.parts(layers, root)).map_err(BuildError::internal)?;

    handle.enter(Phase::Store);
    let config = assembled.config.descriptor();
    let stored = engine
        .blobs
        .put(config.digest, assembled.config.bytes.into());
    stored.await?;
    let position = |digest| {
        let mut layers = assembled.layers.iter();
        layers.position(|layer| layer.digest == digest)
    };
    summaries.sort_by_key(|layer| position(layer.digest));
    let cached = summaries.iter().filter(|layer| layer.cached).count();
    let name = &handle.request().name;
    Ok(WrittenDocuments::Of(Box::new(Image {
        key,
        name: name.canonical().to_owned(),
        packages: name.packages().to_vec(),
        architecture: name.architecture(),
        config,
        oci: assembled.oci.into(),
        docker: assembled.docker.map(Into::into),
        versions: None,
        stats: BuildStats {
            layers_cached: cached,
            layers_packed: summaries.len() - cached,
            ..BuildStats::default()
        },
        layers: summaries,
    })))
}
