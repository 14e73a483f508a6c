//! The main flow: from a request to an image whose blobs are all stored.

use std::time::Instant;

use nixery_manifest::assemble;
use nixery_storage::Key;
use tokio::sync::SemaphorePermit;

use crate::engine::{Engine, permit};
use crate::error::BuildError;
use crate::handle::BuildHandle;
use crate::image::{BuildStats, Image};
use crate::layers::{self, ReadyLayer};
use crate::nix::{Evaluation, EvaluationRequest, RealisedPackage};
use crate::progress::Phase;
use crate::recipe::Recipe;
use crate::record::{self, ImageRecord};
use crate::turn::{self, Turn};

/// Builds the image a handle asks for, or finds it.
pub(crate) async fn build(engine: &Engine, handle: &BuildHandle) -> Result<Image, BuildError> {
    let recipe = Recipe::new(&engine.config, handle.request(), &handle.target().source);

    let pinned = recipe.pinned_key();
    let mut phases = Phases::start(handle, pinned.is_some());

    // What cannot change is found, or waited for, without Nix.
    let (mut lease, mut may_evaluate) = (None, None);
    if let Some(key) = pinned {
        match turn::take(engine, handle, &mut phases, key, &engine.evaluations).await? {
            Turn::Found(image) => return Ok(phases.finish(*image)),
            Turn::Ours(ours, permit) => (lease, may_evaluate) = (Some(ours), Some(permit)),
        }
    }
    let evaluation = evaluate(engine, handle, &mut phases, may_evaluate).await?;

    let key = pinned.unwrap_or_else(|| recipe.evaluated_key(&evaluation));
    let mut may_realise = None;
    if pinned.is_none() {
        match turn::take(engine, handle, &mut phases, key, &engine.realisations).await? {
            Turn::Found(image) => return Ok(phases.finish(*image)),
            Turn::Ours(ours, permit) => (lease, may_realise) = (Some(ours), Some(permit)),
        }
    }

    // Until the layers are stored, nothing of the closure may be garbage-collected.
    let gc_roots = engine.instance.gc_roots();
    let gc_roots = gc_roots.map_err(|source| BuildError::Spool {
        action: "make GC roots",
        source,
    })?;
    let roots = gc_roots.path();
    let packages = realise(engine, &evaluation, roots, handle, &mut phases, may_realise).await?;

    phases.enter(Phase::Graph);
    let roots: Vec<_> = packages
        .iter()
        .map(|package| package.path.clone())
        .collect();
    let graph = engine.nix.reference_graph(&roots, handle.log()).await;
    let graph = graph.map_err(|error| BuildError::from_nix(error, Phase::Graph))?;

    phases.enter(Phase::Plan);
    let (graph, plan) = layers::plan(engine, graph).await?;

    phases.enter(Phase::Pack);
    let layers = layers::ensure_all(engine, &graph, &plan, handle).await?;
    let root = layers::ensure_root(engine, &packages, handle).await?;
    drop(gc_roots);

    phases.enter(Phase::Assemble);
    let image = assemble_and_store(engine, handle, recipe, layers, root).await?;
    remember(engine, &image, Key::Manifest(key)).await?;
    drop(lease);
    Ok(phases.finish(image))
}

async fn evaluate(
    engine: &Engine,
    handle: &BuildHandle,
    phases: &mut Phases<'_>,
    allowed: Option<SemaphorePermit<'_>>,
) -> Result<Evaluation, BuildError> {
    let _permit = match allowed {
        Some(permit) => permit,
        None => permit(&engine.evaluations).await?,
    };
    phases.enter(Phase::Evaluate);
    let request = handle.request();
    let request = EvaluationRequest {
        source: handle.target().source.clone(),
        packages: request.name.packages().to_vec(),
        architecture: request.name.architecture(),
    };
    let evaluation = engine.nix.evaluate(&request, handle.log()).await;
    evaluation.map_err(|error| BuildError::from_nix(error, Phase::Evaluate))
}

async fn realise(
    engine: &Engine,
    evaluation: &Evaluation,
    gc_roots: &std::path::Path,
    handle: &BuildHandle,
    phases: &mut Phases<'_>,
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

/// Writes config and manifests around the layers and stores them.
async fn assemble_and_store(
    engine: &Engine,
    handle: &BuildHandle,
    recipe: Recipe<'_>,
    layers: Vec<ReadyLayer>,
    root: ReadyLayer,
) -> Result<Image, BuildError> {
    let (image_layers, mut summaries): (Vec<_>, Vec<_>) = layers
        .into_iter()
        .map(|layer| (layer.image_layer, layer.summary))
        .unzip();
    let parts = recipe.parts(image_layers, root.image_layer);
    summaries.push(root.summary);
    let assembled = assemble(parts).map_err(BuildError::internal)?;

    // What refers to a blob is stored after it.
    let documents = [
        Some(&assembled.config),
        Some(&assembled.oci),
        assembled.docker.as_ref(),
    ];
    for blob in documents.into_iter().flatten() {
        engine.store_blob(blob).await?;
    }
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

/// Writes the manifest cache's entry, last: it may name only what is stored.
async fn remember(engine: &Engine, image: &Image, key: Key) -> Result<(), BuildError> {
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
    record::save(&*engine.storage, &key, &record).await
}

/// The build's phases as they are passed through, with their times.
pub(crate) struct Phases<'a> {
    handle: &'a BuildHandle,
    immutable: bool,
    current: Phase,
    since: Instant,
    passed: Vec<(Phase, std::time::Duration)>,
}

impl<'a> Phases<'a> {
    fn start(handle: &'a BuildHandle, immutable: bool) -> Self {
        Self {
            handle,
            immutable,
            current: Phase::Queued,
            since: Instant::now(),
            passed: Vec::new(),
        }
    }

    pub(crate) fn enter(&mut self, phase: Phase) {
        let elapsed = self.since.elapsed();
        match self
            .passed
            .iter_mut()
            .find(|(passed, _)| *passed == self.current)
        {
            Some((_, total)) => *total += elapsed,
            None => self.passed.push((self.current, elapsed)),
        }
        (self.current, self.since) = (phase, Instant::now());
        self.handle.update(|progress| progress.phase = phase);
    }

    fn finish(mut self, mut image: Image) -> Image {
        self.enter(Phase::Done);
        image.stats.immutable = self.immutable;
        image.stats.phases = self.passed;
        image
    }
}
