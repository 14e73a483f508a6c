//! Stores the layers of an image: finds each in the blob store, or packs it.

use std::cmp::Reverse;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_core::{
    LayerPlan, LayerStrategy, NarHash, PACKER_VERSION, PackError, PackedLayer, Packer,
    PlannedLayer, ReferenceGraph, RootLayer, StorePath, layer_key,
};
use nixery_manifest::{Digest, ImageLayer};
use nixery_nix::BuildLog;
use nixery_state::record::{self, BUILDS, LayerRecord, LayerSummary};
use nixery_storage::{ByteRange, Key, StorageError};
use tempfile::NamedTempFile;
use tokio::sync::{OwnedMutexGuard, mpsc};

use crate::config::budget_of_paths;
use crate::engine::{Engine, permit};
use crate::error::BuildError;
use crate::fair_limit::FairPermit;
use crate::handle::BuildHandle;
use crate::hashing::CHUNK_BYTES;

/// Layers of one build that are looked up, packed or stored at once. If the engine allows more
/// spool files, that number holds.
const LAYERS_AT_ONCE: usize = 32;
/// Names of store paths shown in a layer's history entry.
const NAMES_SHOWN: usize = 5;
/// Conflicts of the root layer listed in a build's log; two versions of a package may have
/// thousands.
const CONFLICTS_SHOWN: usize = 20;

/// A layer whose digest is known. The layer is in the blob store, or on its way there.
#[derive(Debug)]
pub(crate) struct KnownLayer {
    pub(crate) image_layer: ImageLayer,
    pub(crate) summary: LayerSummary,
    /// The key of the record that it was found by.
    pub(crate) record: Option<Digest>,
}

impl KnownLayer {
    /// `record` is the key of the record that it was found by. `sharing` is the place of the layer
    /// in the plan's order, which the image keeps.
    fn new(
        layer: &PackedLayer,
        record: Option<Digest>,
        sharing: u64,
        paths: Vec<StorePath>,
        reason: String,
    ) -> Self {
        Self {
            image_layer: ImageLayer {
                digest: layer.digest,
                diff_id: layer.diff_id,
                size: layer.size,
                compression: layer.compression,
                sharing,
                created_by: created_by(&paths),
                comment: Some(reason.clone()).filter(|reason| !reason.is_empty()),
            },
            summary: LayerSummary {
                digest: layer.digest,
                diff_id: layer.diff_id,
                size: layer.size,
                tar_size: layer.tar_size,
                paths,
                reason,
                cached: record.is_some(),
            },
            record,
        }
    }

    /// Whether this is the root layer, the only one without store paths.
    pub(crate) fn is_root(&self) -> bool {
        self.summary.paths.is_empty()
    }
}

/// A packed layer that is not in the blob store yet.
struct SpooledLayer {
    layer: PackedLayer,
    /// Declared before the permit, so that the file is deleted before another one may be made.
    file: NamedTempFile,
    _permit: FairPermit,
}

/// Groups the paths of the graph into layers, and checks the strategy's plan. One layer of the
/// budget is left for the root layer.
pub(crate) async fn plan(
    engine: &Engine,
    strategy: Arc<dyn LayerStrategy>,
    graph: ReferenceGraph,
) -> Result<(ReferenceGraph, LayerPlan), BuildError> {
    let budget = budget_of_paths(engine.config.budget);
    let planning = tokio::task::spawn_blocking(move || {
        let plan = strategy.plan(&graph, budget);
        match plan.check(&graph, budget) {
            Ok(()) => Ok((graph, plan)),
            Err(violation) => Err(BuildError::InvalidPlan {
                strategy: strategy.id(),
                violation,
            }),
        }
    });
    planning
        .await
        .unwrap_or_else(|panic| Err(BuildError::internal(format!("layer planning: {panic}"))))
}

/// Stores every layer of a checked plan, and sends each to `announce` as soon as its digest is
/// known.
pub(crate) async fn store_all(
    engine: &Engine,
    graph: &ReferenceGraph,
    plan: &LayerPlan,
    handle: &BuildHandle,
    announce: mpsc::UnboundedSender<KnownLayer>,
) -> Result<(), BuildError> {
    let sizes = plan.layers.iter().map(|layer| layer.nar_size);
    let bytes = sizes.fold(0, u64::saturating_add);
    handle.update(|progress| {
        progress.layers_total = plan.layers.len() + 1;
        progress.bytes_total = bytes;
    });
    // The largest first, so that the last ones to finish are small.
    let mut layers: Vec<_> = (1..).zip(plan.layers.iter().rev()).collect();
    layers.sort_by_key(|(_, layer)| Reverse(layer.nar_size));
    let stores = layers.into_iter().map(|(sharing, layer)| {
        let announce = announce.clone();
        async move {
            store(engine, graph, layer, sharing, handle, announce).await?;
            handle.update(|progress| {
                progress.layers_done += 1;
                progress.bytes_done = progress.bytes_done.saturating_add(layer.nar_size);
            });
            Ok(())
        }
    });
    let stores: Vec<_> = stores.collect();
    // The receiver ends when the last layer is known.
    drop(announce);
    stream::iter(stores)
        .buffer_unordered(LAYERS_AT_ONCE.max(engine.max_spool_files))
        .try_collect()
        .await
}

/// Finds one layer in the store, or packs and stores it.
async fn store(
    engine: &Engine,
    graph: &ReferenceGraph,
    layer: &PlannedLayer,
    sharing: u64,
    handle: &BuildHandle,
    announce: mpsc::UnboundedSender<KnownLayer>,
) -> Result<(), BuildError> {
    let nodes: Vec<_> = layer.paths.iter().map(|&id| graph.node(id)).collect();
    let paths: Vec<StorePath> = nodes.iter().map(|node| node.path.clone()).collect();
    let members = nodes
        .iter()
        .map(|node| Some((&node.path, node.nar_hash.as_ref()?)));
    let members: Vec<_> = members
        .collect::<Option<_>>()
        .ok_or_else(|| BuildError::internal("Nix reported no NAR hash of a store path"))?;
    let compression = engine.config.compression;
    let key = layer_key(&members, compression, PACKER_VERSION);
    let reason = layer.reason.clone();
    let mut contents: Vec<(StorePath, NarHash)> = members
        .iter()
        .map(|(path, nar_hash)| ((*path).clone(), **nar_hash))
        .collect();
    contents.sort_unstable();
    let mut right = None;
    // Looks again after waiting, as another build may have stored the layer meanwhile.
    let (may_spool, _lock) = loop {
        if let Some(layer) = find(engine, key, &contents).await? {
            // A build that has failed meanwhile no longer receives.
            let _ = announce.send(KnownLayer::new(&layer, Some(key), sharing, paths, reason));
            return Ok(());
        }
        if let Some(right) = right.take() {
            break right;
        }
        right = acquire_right(engine, key, handle).await?;
    };
    let (store, to_pack) = (engine.nix.store_root().clone(), paths.clone());
    let packed = pack(engine, may_spool, move |packer, out| {
        packer.pack_layer(&to_pack, &store, compression, out)
    });
    let packed = packed.await?;
    let _ = announce.send(KnownLayer::new(&packed.layer, None, sharing, paths, reason));
    drop(announce);
    let layer = packed.layer.clone();
    put(engine, packed).await?;
    engine.blobs.record_layer(key, layer.digest);
    let record = LayerRecord { layer, contents };
    let (key, secret) = (Key::new(BUILDS, key), engine.config.record_secret.as_ref());
    let saved = record::save(&*engine.storage, secret, &key, &record).await;
    saved.map_err(BuildError::stored)
}

/// Waits until this build may pack the layer. Returns `None` after another build has done it, or
/// failed to.
///
/// A build acquires the permit at its own place in the queue, and only then the lock. So a build
/// that waits for the lock waits for a layer that is being packed, and not for the place of another
/// client. It returns its permit meanwhile.
async fn acquire_right(
    engine: &Engine,
    key: Digest,
    handle: &BuildHandle,
) -> Result<Option<(FairPermit, OwnedMutexGuard<()>)>, BuildError> {
    let may_spool = engine.spooling.acquire(handle).await?;
    if let Some(lock) = engine.layer_locks.try_lock(key) {
        return Ok(Some((may_spool, lock)));
    }
    drop(may_spool);
    drop(engine.layer_locks.lock(key).await);
    Ok(None)
}

/// Returns the layer that was built for a key, if its record says that it has these store paths,
/// and the store still has its blob, which begins with one of them. Keeps the blob for this build.
pub(crate) async fn find(
    engine: &Engine,
    key: Digest,
    contents: &[(StorePath, NarHash)],
) -> Result<Option<PackedLayer>, BuildError> {
    let (entry, secret) = (Key::new(BUILDS, key), engine.config.record_secret.as_ref());
    let record = record::load::<LayerRecord>(&*engine.storage, secret, &entry).await;
    let Some(record) = record.map_err(BuildError::looked_up)? else {
        return Ok(None);
    };
    let PackedLayer { digest, size, .. } = record.layer;
    let compression = engine.config.compression.compression();
    let fits = record.contents == contents && record.layer.compression == compression;
    if fits && !engine.blobs.hold(digest, size).await? {
        return Ok(None);
    }
    if !fits || !begins_right(engine, key, &record).await? {
        tracing::warn!(key = %entry, "the record of a layer is for another layer: packing the layer again");
        return Ok(None);
    }
    Ok(Some(record.layer))
}

/// Returns whether the blob of a record begins with one of the record's store paths. This process
/// looks once.
async fn begins_right(
    engine: &Engine,
    key: Digest,
    record: &LayerRecord,
) -> Result<bool, BuildError> {
    let digest = record.layer.digest;
    if engine.blobs.is_layer(&key, &digest) || record.contents.is_empty() {
        return Ok(true);
    }
    let start = ByteRange::new(0, CHUNK_BYTES);
    let start = async {
        match engine.storage.get(&Key::blob(digest), Some(start)).await {
            Ok(Some(start)) => start.bytes().await.map(Some),
            // It is gone, or empty.
            Ok(None) | Err(StorageError::RangeNotSatisfiable { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let Some(start) = start.await.map_err(BuildError::looked_up)? else {
        return Ok(false);
    };
    let record = record.clone();
    let looked = engine
        .blobs
        .hashing
        .run(start.len(), move || record.begins_with(&start))
        .await;
    let right = looked.map_err(BuildError::looked_up)?;
    if right {
        engine.blobs.record_layer(key, digest);
    }
    Ok(right)
}

/// Deletes the records of layers, which are then packed again.
pub(crate) async fn forget(engine: &Engine, records: &[Digest]) -> Result<(), BuildError> {
    for record in records {
        let key = Key::new(BUILDS, *record);
        tracing::warn!(%key, "the record of a layer names the blob of another layer: packing the layer again");
        let deleted = engine.storage.delete(&key).await;
        deleted.map_err(BuildError::stored)?;
    }
    Ok(())
}

/// Packs and stores the root layer. This takes milliseconds, so the layer has no record.
pub(crate) async fn store_root_layer(
    engine: &Engine,
    packages: Vec<StorePath>,
    handle: &BuildHandle,
    announce: mpsc::UnboundedSender<KnownLayer>,
) -> Result<(), BuildError> {
    let (store, compression) = (engine.nix.store_root().clone(), engine.config.compression);
    let log_handle = handle.clone();
    let may_spool = engine.spooling.acquire(handle).await?;
    let packed = pack(engine, may_spool, move |packer, out| {
        let root = RootLayer::plan(&packages, &store)?;
        log_omissions(&root, log_handle.log());
        packer.pack_root_layer(&root, compression, out)
    });
    let packed = packed.await?;
    let reason = "root layer: links into the packages".to_owned();
    // A build that has failed meanwhile no longer receives.
    let _ = announce.send(KnownLayer::new(&packed.layer, None, 0, Vec::new(), reason));
    drop(announce);
    put(engine, packed).await?;
    handle.update(|progress| progress.layers_done += 1);
    Ok(())
}

/// Logs the files that a user may miss in the image's own directories.
fn log_omissions(root: &RootLayer, log: &BuildLog) {
    for path in root.unlinked() {
        let path = path.as_str();
        log.push(&format!(
            "root layer: {path} is not a directory and not a program, so nothing links to it"
        ));
    }
    for conflict in root.conflicts().iter().take(CONFLICTS_SHOWN) {
        log.push(&format!("root layer: {conflict}"));
    }
    if let more @ 1.. = root.conflicts().len().saturating_sub(CONFLICTS_SHOWN) {
        log.push(&format!("root layer: {more} more files are left out"));
    }
}

/// Packs a layer into a spool file.
async fn pack(
    engine: &Engine,
    may_spool: FairPermit,
    pack: impl FnOnce(
        &Packer,
        BufWriter<NamedTempFile>,
    ) -> Result<(PackedLayer, BufWriter<NamedTempFile>), PackError>
    + Send
    + 'static,
) -> Result<SpooledLayer, BuildError> {
    let spool_error = |source| BuildError::Spool {
        action: "write a temporary file",
        source,
    };
    let may_pack = permit(&engine.packing).await?;
    let spool = engine.instance.spool_file().map_err(spool_error)?;
    let packer = Arc::clone(&engine.packer);
    let packing = tokio::task::spawn_blocking(move || {
        // The thread holds the permit, as it goes on when its build is stopped.
        let _permit = may_pack;
        let (layer, out) = pack(&packer, BufWriter::with_capacity(128 * 1024, spool))?;
        let mut file = out
            .into_inner()
            .map_err(|error| spool_error(error.into_error()))?;
        file.flush().map_err(spool_error)?;
        Ok(SpooledLayer {
            layer,
            file,
            _permit: may_spool,
        })
    });
    packing
        .await
        .unwrap_or_else(|panic| Err(BuildError::internal(format!("packing a layer: {panic}"))))
}

/// Stores a packed layer under its digest.
async fn put(engine: &Engine, packed: SpooledLayer) -> Result<(), BuildError> {
    let (digest, size) = (packed.layer.digest, packed.layer.size);
    let stored = engine.blobs.put_file(digest, size, packed.file.path());
    let stored = stored.await;
    // Deleting gigabytes takes a while.
    tokio::task::spawn_blocking(move || drop(packed));
    stored
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
