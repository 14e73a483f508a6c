//! The main flow: from a request to an image whose blobs are all stored.

use nixery_state::record::MANIFESTS;
use std::sync::Arc;

use futures::future::{try_join, try_join_all};
use nixery_core::{LayerStrategy, ReferenceGraph};
use nixery_manifest::{Digest, assemble};
use nixery_nix::{Evaluation, EvaluationRequest, RealisedPackage};
use nixery_state::record::{self, ImageRecord};
use nixery_storage::Key;
use tokio::sync::{SemaphorePermit, mpsc, oneshot};

use crate::engine::{Engine, permit};
use crate::error::BuildError;
use crate::handle::BuildHandle;
use crate::image::{BuildStats, Image};
use crate::layers::{self, Announce, KnownLayer};
use crate::phases::Phases;
use crate::progress::Phase;
use crate::recipe::Recipe;
use crate::turn::{self, Turn};

/// An image, and if it was built the graph of what is in it.
pub(crate) type Built = (Image, Option<ReferenceGraph>);

/// Builds the image a handle asks for, or finds it; grouped by this strategy whatever comes meanwhile.
pub(crate) async fn build(
    engine: &Engine,
    strategy: Arc<dyn LayerStrategy>,
    handle: &BuildHandle,
) -> Result<Built, BuildError> {
    let (request, source) = (handle.request(), &handle.target().source);
    let recipe = Recipe::new(&engine.config, &*strategy, request, source);

    let pinned = recipe.pinned_key();
    let phases = Phases::start(handle, pinned.is_some());

    // What cannot change is found, or waited for, without Nix.
    let (mut lease, mut may_evaluate) = (None, None);
    if let Some(key) = pinned {
        handle.found_key(key);
        match turn::take(engine, handle, &phases, key, &engine.evaluations).await? {
            Turn::Found(image) => return Ok((phases.finish(*image), None)),
            Turn::Ours(ours, permit) => (lease, may_evaluate) = (Some(ours), Some(permit)),
        }
    }
    let evaluation = evaluate(engine, handle, &phases, may_evaluate).await?;

    let key = pinned.unwrap_or_else(|| recipe.evaluated_key(&evaluation));
    handle.found_key(key);
    let mut may_realise = None;
    if pinned.is_none() {
        match turn::take(engine, handle, &phases, key, &engine.realisations).await? {
            Turn::Found(image) => return Ok((phases.finish(*image), None)),
            Turn::Ours(ours, permit) => (lease, may_realise) = (Some(ours), Some(permit)),
        }
    }

    // Until the layers are stored, nothing of the closure may be garbage-collected.
    let gc_roots = engine
        .instance
        .gc_roots()
        .map_err(BuildError::no_gc_roots)?;
    let roots = gc_roots.path();
    let packages = realise(engine, &evaluation, roots, handle, &phases, may_realise).await?;

    // All of it at once, each as soon as what it needs is known. Of several that fail the first is told.
    let (root, root_known) = oneshot::channel();
    let (layers, layers_known) = Announce::channel();
    let (image, graph) = try_join(
        write_documents(
            engine,
            &phases,
            handle,
            recipe,
            key,
            layers_known,
            root_known,
        ),
        async {
            let root = layers::ensure_root(engine, &packages, handle, root);
            let strategy = Arc::clone(&strategy);
            let others = ensure_layers(engine, strategy, &packages, &phases, handle, layers);
            try_join(root, others).await.map(|((), graph)| graph)
        },
    )
    .await?;
    drop(gc_roots);

    store_manifests(engine, &image).await?;
    remember(engine, &image).await?;
    drop(lease);
    Ok((phases.finish(image), Some(graph)))
}

async fn evaluate(
    engine: &Engine,
    handle: &BuildHandle,
    phases: &Phases<'_>,
    allowed: Option<SemaphorePermit<'_>>,
) -> Result<Evaluation, BuildError> {
    let _permit = match allowed {
        Some(permit) => permit,
        None => permit(&engine.evaluations).await?,
    };
    phases.enter(Phase::Evaluate);
    handle.evaluating();
    let source = handle.target().source.clone();
    let request = EvaluationRequest::for_image(&handle.request().name, source);
    let evaluation = engine.nix.evaluate(&request, handle.log()).await;
    evaluation.map_err(|error| BuildError::from_nix(error, Phase::Evaluate))
}

async fn realise(
    engine: &Engine,
    evaluation: &Evaluation,
    gc_roots: &std::path::Path,
    handle: &BuildHandle,
    phases: &Phases<'_>,
    allowed: Option<SemaphorePermit<'_>>,
) -> Result<Vec<RealisedPackage>, BuildError> {
    phases.enter(Phase::Queued);
    let _permit = match allowed {
        Some(permit) => permit,
        None => permit(&engine.realisations).await?,
    };
    phases.enter(Phase::Realise);
    let packages = engine.nix.realise(evaluation, gc_roots, handle.log()).await;
    packages.map_err(|error| BuildError::from_nix(error, Phase::Realise))
}

/// Finds out what is in the closure of the packages, and puts all of it into the store.
async fn ensure_layers(
    engine: &Engine,
    strategy: Arc<dyn LayerStrategy>,
    packages: &[RealisedPackage],
    phases: &Phases<'_>,
    handle: &BuildHandle,
    announce: Announce,
) -> Result<ReferenceGraph, BuildError> {
    phases.enter(Phase::Graph);
    let roots: Vec<_> = packages
        .iter()
        .map(|package| package.path.clone())
        .collect();
    let graph = engine.nix.reference_graph(&roots, handle.log()).await;
    let graph = graph.map_err(|error| BuildError::from_nix(error, Phase::Graph))?;

    phases.enter(Phase::Plan);
    let (graph, plan) = layers::plan(engine, strategy, graph).await?;

    phases.enter(Phase::Pack);
    layers::ensure_all(engine, &graph, &plan, handle, announce).await?;
    Ok(graph)
}

/// Writes config and manifests as soon as all layers are known, and stores the config: what it names are
/// the layers' contents, not their blobs, so these may still be on their way.
async fn write_documents(
    engine: &Engine,
    phases: &Phases<'_>,
    handle: &BuildHandle,
    recipe: Recipe<'_>,
    key: Digest,
    mut layers: mpsc::UnboundedReceiver<KnownLayer>,
    root: oneshot::Receiver<KnownLayer>,
) -> Result<Image, BuildError> {
    let (mut image_layers, mut summaries) = (Vec::new(), Vec::new());
    while let Some(layer) = layers.recv().await {
        image_layers.push(layer.image_layer);
        summaries.push(layer.summary);
    }
    let root = root.await.map_err(BuildError::internal)?;
    phases.enter(Phase::Assemble);
    summaries.push(root.summary);
    let assembled = assemble(recipe.parts(image_layers, root.image_layer));
    let assembled = assembled.map_err(BuildError::internal)?;

    phases.enter(Phase::Store);
    engine.store_blob(&assembled.config).await?;
    let position = |digest| {
        assembled
            .layers
            .iter()
            .position(|layer| layer.digest == digest)
    };
    summaries.sort_by_key(|layer| position(layer.digest));
    let cached = summaries.iter().filter(|layer| layer.cached).count();
    let request = handle.request();
    Ok(Image {
        key,
        name: request.name.canonical().to_owned(),
        packages: request.name.packages().to_vec(),
        architecture: request.name.architecture(),
        config: assembled.config.descriptor(),
        oci: assembled.oci.into(),
        docker: assembled.docker.map(Into::into),
        stats: BuildStats {
            layers_cached: cached,
            layers_packed: summaries.len() - cached,
            ..BuildStats::default()
        },
        layers: summaries,
    })
}

/// Stores the manifests, of which neither names the other. What they name is stored: a blob is never there
/// before those it refers to.
async fn store_manifests(engine: &Engine, image: &Image) -> Result<(), BuildError> {
    let stores = image
        .manifests()
        .map(|manifest| engine.blobs.put(manifest.digest, manifest.bytes.clone()));
    try_join_all(stores).await.map(drop)
}

/// Writes the manifest cache's entry, last: it may name only what is stored.
async fn remember(engine: &Engine, image: &Image) -> Result<(), BuildError> {
    let record = ImageRecord {
        packages: image.packages.clone(),
        architecture: image.architecture,
        oci: image.oci.descriptor(),
        docker: image
            .docker
            .as_ref()
            .map(crate::image::ManifestBlob::descriptor),
        config: image.config.clone(),
        layers: image.layers.clone(),
    };
    let saved = record::save(&*engine.storage, &Key::new(MANIFESTS, image.key), &record).await;
    saved.map_err(BuildError::stored)
}
