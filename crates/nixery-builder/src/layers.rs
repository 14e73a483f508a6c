//! Making sure that every layer of an image is in the blob store.

use nixery_state::record::BUILDS;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_core::{
    LayerPlan, LayerStrategy, PACKER_VERSION, PackError, PackedLayer, Packer, PlannedLayer,
    ReferenceGraph, RootLayer, StorePath, layer_key,
};
use nixery_manifest::{Digest, ImageLayer};
use nixery_nix::{BuildLog, RealisedPackage};
use nixery_state::record::LayerSummary;
use nixery_state::record::{self, LayerRecord};
use nixery_storage::Key;
use tempfile::NamedTempFile;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::config::budget_of_paths;
use crate::engine::Engine;
use crate::error::BuildError;
use crate::handle::BuildHandle;

/// Layers of one build that are looked up, wait, are packed or stored at once, or as many as may be packed and
/// lie in the spool, which the engine says, if that is more.
const LAYERS_AT_ONCE: usize = 32;
/// Names of store paths shown in a layer's history entry.
const NAMES_SHOWN: usize = 5;

/// Conflicts of the root layer that a build's log lists; two versions of a package may have thousands.
const CONFLICTS_TOLD: usize = 20;

/// A layer whose digest is known: it is in the blob store, or on its way there.
#[derive(Debug)]
pub(crate) struct KnownLayer {
    pub(crate) image_layer: ImageLayer,
    pub(crate) summary: LayerSummary,
}

/// Tells of one layer as soon as its digest is known. When all of them are gone, all layers are.
#[derive(Clone)]
pub(crate) struct Announce(mpsc::UnboundedSender<KnownLayer>);

impl Announce {
    /// With who hears of it.
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<KnownLayer>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    fn known(self, layer: KnownLayer) {
        // Nobody hears it where the build has failed meanwhile.
        let _ = self.0.send(layer);
    }
}

/// A packed layer that is not in the blob store yet.
struct Spooled {
    layer: PackedLayer,
    /// Deleted before its room is given to others.
    file: NamedTempFile,
    _room: OwnedSemaphorePermit,
}

/// Groups the graph's paths, and checks the strategy's plan. Leaves room for the root layer in the budget.
pub(crate) async fn plan(
    engine: &Engine,
    strategy: Arc<dyn LayerStrategy>,
    graph: ReferenceGraph,
) -> Result<(ReferenceGraph, LayerPlan), BuildError> {
    let budget = budget_of_paths(engine.config.budget);
    let planning = tokio::task::spawn_blocking(move || {
        let plan = strategy.plan(&graph, budget);
        plan.check(&graph, budget).map_err(|error| {
            let id = strategy.id();
            BuildError::internal(format!(
                "the plan of the layer strategy `{id}` is invalid: {error}"
            ))
        })?;
        Ok((graph, plan))
    });
    planning
        .await
        .unwrap_or_else(|panic| Err(BuildError::internal(format!("layer planning: {panic}"))))
}

/// Puts every layer of the plan into the store: finds it there, or packs it.
pub(crate) async fn ensure_all(
    engine: &Engine,
    graph: &ReferenceGraph,
    plan: &LayerPlan,
    handle: &BuildHandle,
    announce: Announce,
) -> Result<(), BuildError> {
    let bytes = plan
        .layers
        .iter()
        .fold(0, |sum: u64, layer| sum.saturating_add(layer.nar_size));
    handle.update(|progress| {
        progress.layers_total = plan.layers.len() + 1;
        progress.bytes_total = bytes;
    });
    // The largest first, so that the last ones to finish are small.
    let places = (1u64..).zip(plan.layers.iter().rev());
    let mut order: Vec<(u64, &PlannedLayer)> = places.collect();
    order.sort_by_key(|(_, layer)| std::cmp::Reverse(layer.nar_size));
    let work: Vec<_> = order
        .into_iter()
        .map(|(sharing, layer)| {
            let announce = announce.clone();
            async move {
                ensure(engine, graph, layer, sharing, announce).await?;
                handle.update(|progress| {
                    progress.layers_done += 1;
                    progress.bytes_done = progress.bytes_done.saturating_add(layer.nar_size);
                });
                Ok(())
            }
        })
        .collect();
    drop(announce);
    stream::iter(work)
        .buffer_unordered(LAYERS_AT_ONCE.max(engine.most_spooled))
        .try_collect()
        .await
}

/// `sharing` is the layer's place in the plan's order, which the image keeps: ratings may be equal.
async fn ensure(
    engine: &Engine,
    graph: &ReferenceGraph,
    layer: &PlannedLayer,
    sharing: u64,
    announce: Announce,
) -> Result<(), BuildError> {
    let nodes: Vec<_> = layer
        .paths
        .iter()
        .filter_map(|&index| graph.get(index))
        .collect();
    if nodes.is_empty() || nodes.len() != layer.paths.len() {
        return Err(BuildError::internal(
            "the layer plan names paths that are not in the graph",
        ));
    }
    let paths: Vec<StorePath> = nodes.iter().map(|node| node.path.clone()).collect();
    let members: Option<Vec<_>> = nodes
        .iter()
        .map(|node| Some((&node.path, node.nar_hash.as_ref()?)))
        .collect();
    let Some(members) = members else {
        return Err(BuildError::internal("Nix told no NAR hash of a store path"));
    };
    let key = layer_key(&members, engine.config.compression, PACKER_VERSION);

    // Another build that needs this very layer waits here, and then finds it.
    let _lock = engine.layer_locks.lock(key).await;
    let facts = |record: &LayerRecord, cached, paths| {
        let reason = layer.reason.clone();
        facts(record, cached, sharing, paths, reason)
    };
    if let Some(record) = find(engine, key).await? {
        announce.known(facts(&record, true, paths));
        return Ok(());
    }
    let (store, compression) = (engine.nix.store_root().clone(), engine.config.compression);
    let packing = paths.clone();
    let packed = pack(engine, move |packer, out| {
        packer.pack_layer(&packing, &store, compression, out)
    });
    let packed = packed.await?;
    let record = LayerRecord::from(packed.layer.clone());
    announce.known(facts(&record, false, paths));
    put(engine, packed).await?;
    let saved = record::save(&*engine.storage, &Key::new(BUILDS, key), &record).await;
    saved.map_err(BuildError::stored)
}

/// The layer built for a key, if its blob is still there, which then stays for this build.
pub(crate) async fn find(engine: &Engine, key: Digest) -> Result<Option<LayerRecord>, BuildError> {
    let record = record::load::<LayerRecord>(&*engine.storage, &Key::new(BUILDS, key)).await;
    match record.map_err(BuildError::looked_up)? {
        Some(record) if engine.blobs.hold(record.digest, record.size).await? => Ok(Some(record)),
        _ => Ok(None),
    }
}

/// Packs and stores the root layer. It takes milliseconds, so it has no cache entry.
pub(crate) async fn ensure_root(
    engine: &Engine,
    packages: &[RealisedPackage],
    handle: &BuildHandle,
    known: oneshot::Sender<KnownLayer>,
) -> Result<(), BuildError> {
    let packages: Vec<_> = packages
        .iter()
        .map(|package| package.path.clone())
        .collect();
    let (store, compression) = (engine.nix.store_root().clone(), engine.config.compression);
    let told = handle.clone();
    let packed = pack(engine, move |packer, out| {
        let root = RootLayer::plan(&packages, &store)?;
        tell_what_is_left_out(&root, told.log());
        packer.pack_root_layer(&root, compression, out)
    });
    let packed = packed.await?;
    let record = LayerRecord::from(packed.layer.clone());
    let reason = "root layer: links into the packages".to_owned();
    // Nobody hears it where the build has failed meanwhile.
    let _ = known.send(facts(&record, false, 0, Vec::new(), reason));
    put(engine, packed).await?;
    handle.update(|progress| progress.layers_done += 1);
    Ok(())
}

/// Says in the build's log what a user may look for in vain in the image's own directories.
fn tell_what_is_left_out(root: &RootLayer, log: &BuildLog) {
    for path in root.unlinked() {
        let path = path.as_str();
        log.push(&format!(
            "root layer: {path} is no directory and no program, nothing links to it"
        ));
    }
    for conflict in root.conflicts().iter().take(CONFLICTS_TOLD) {
        // Without the slash in front: logs are shown without the server's paths, and this is not one.
        let place = conflict.path.strip_prefix("/").unwrap_or(&conflict.path);
        let kept = conflict.kept.as_deref().map(Path::display);
        let kept = kept.map_or("the image's own".to_owned(), |kept| kept.to_string());
        let skipped = conflict.skipped.display();
        log.push(&format!(
            "root layer: {} is {kept}; {skipped} is left out",
            place.display()
        ));
    }
    if let more @ 1.. = root.conflicts().len().saturating_sub(CONFLICTS_TOLD) {
        log.push(&format!("root layer: {more} more files are left out"));
    }
}

/// Packs into a spool file.
async fn pack(
    engine: &Engine,
    pack: impl FnOnce(
        &Packer,
        BufWriter<NamedTempFile>,
    ) -> Result<(PackedLayer, BufWriter<NamedTempFile>), PackError>
    + Send
    + 'static,
) -> Result<Spooled, BuildError> {
    let spool_error = |source| BuildError::Spool {
        action: "write a spool file",
        source,
    };
    let room = engine.may_spool().await?;
    let permit = engine.may_pack().await?;
    let spool = engine.instance.spool_file().map_err(spool_error)?;
    let packer = Arc::clone(&engine.packer);
    let packing = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let (layer, out) = pack(&packer, BufWriter::with_capacity(128 * 1024, spool))?;
        let mut file = out
            .into_inner()
            .map_err(|error| spool_error(error.into_error()))?;
        file.flush().map_err(spool_error)?;
        Ok(Spooled {
            layer,
            file,
            _room: room,
        })
    });
    packing
        .await
        .unwrap_or_else(|panic| Err(BuildError::internal(format!("packing a layer: {panic}"))))
}

/// Stores a packed layer under its digest. The store makes it durable.
async fn put(engine: &Engine, packed: Spooled) -> Result<(), BuildError> {
    let (digest, size) = (packed.layer.digest, packed.layer.size);
    let stored = engine.blobs.put_file(digest, size, packed.file.path());
    let stored = stored.await;
    // Deleting gigabytes takes a while.
    tokio::task::spawn_blocking(move || drop(packed));
    stored
}

fn facts(
    record: &LayerRecord,
    cached: bool,
    sharing: u64,
    paths: Vec<StorePath>,
    reason: String,
) -> KnownLayer {
    KnownLayer {
        image_layer: ImageLayer {
            digest: record.digest,
            diff_id: record.diff_id,
            size: record.size,
            compression: record.compression,
            sharing,
            created_by: created_by(&paths),
            comment: (!reason.is_empty()).then(|| reason.clone()),
        },
        summary: LayerSummary {
            digest: record.digest,
            diff_id: record.diff_id,
            size: record.size,
            tar_size: record.tar_size,
            paths,
            reason,
            cached,
        },
    }
}

/// `nixery: glibc-2.38, bash-5.2 and 3 more`
fn created_by(paths: &[StorePath]) -> String {
    if paths.is_empty() {
        return "nixery: root".to_owned();
    }
    let names: Vec<_> = paths
        .iter()
        .take(NAMES_SHOWN)
        .map(StorePath::name)
        .collect();
    let mut text = format!("nixery: {}", names.join(", "));
    if let more @ 1.. = paths.len().saturating_sub(NAMES_SHOWN) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
