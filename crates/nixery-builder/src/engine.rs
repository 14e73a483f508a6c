//! What all builds of one builder share.

use nixery_state::record::MANIFESTS;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use nixery_core::{LayerStrategy, Packer};
use nixery_manifest::{Blob, Digest};
use nixery_nix::{InstanceDir, Nix};
use nixery_state::lease::Leases;
use nixery_state::record::{self, ImageRecord, MAX_MANIFEST};
use nixery_storage::{Key, Storage, StorageError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::blobs::Blobs;
use crate::config::{BuilderConfig, ImageRequest};
use crate::error::{BuildError, BuilderError};
use crate::image::{BuildStats, Image, ManifestBlob};
use crate::keyed_lock::KeyedLocks;

/// Packed layers that wait for the store or are on their way to it, besides those being packed: over all
/// builds, as each is a file on this server's disk and a remote store holds parts of it in memory.
const STORE_AHEAD: usize = 8;

/// Configuration, Nix, the store, and the limits.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: BuilderConfig,
    pub(crate) nix: Arc<dyn Nix>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) blobs: Blobs,
    pub(crate) instance: InstanceDir,
    pub(crate) layer_locks: KeyedLocks<Digest>,
    /// Of images being made, so that other servers on the store wait for them.
    pub(crate) leases: Leases,
    /// Evaluations that may run; see [`permit`].
    pub(crate) evaluations: Semaphore,
    /// Realisations that may run.
    pub(crate) realisations: Semaphore,
    packing: Arc<Semaphore>,
    /// Spool files that there may be.
    spooling: Arc<Semaphore>,
    /// Layers that may be packed, wait for the store or be on their way to it at once, over all builds.
    pub(crate) most_spooled: usize,
    pub(crate) packer: Arc<Packer>,
    /// How images that are asked for now are grouped.
    strategy: RwLock<Arc<dyn LayerStrategy>>,
}

impl Engine {
    pub(crate) async fn new(
        config: BuilderConfig,
        nix: Arc<dyn Nix>,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, BuilderError> {
        let instance = InstanceDir::open(&config.spool_dir)?;
        let leases = Leases::where_exclusive(Arc::clone(&storage), config.lease_ttl).await;
        let pack_threads = config.pack_threads.max(1);
        let most_spooled = pack_threads.saturating_add(STORE_AHEAD);
        Ok(Self {
            leases,
            strategy: RwLock::new(Arc::clone(&config.strategy)),
            blobs: Blobs::new(Arc::clone(&storage), config.seen_counts(), config.gc_grace),
            instance,
            layer_locks: KeyedLocks::default(),
            evaluations: Semaphore::new(config.max_evaluations.max(1)),
            realisations: Semaphore::new(config.max_builds.max(1)),
            packer: Arc::new(Packer::new(pack_threads)),
            packing: Arc::new(Semaphore::new(pack_threads)),
            spooling: Arc::new(Semaphore::new(most_spooled)),
            most_spooled,
            config,
            nix,
            storage,
        })
    }

    /// The layer strategy. A build takes it once, and keeps to it.
    pub(crate) fn strategy(&self) -> Arc<dyn LayerStrategy> {
        let strategy = self.strategy.read();
        Arc::clone(&strategy.unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_strategy(&self, strategy: Arc<dyn LayerStrategy>) {
        let mut current = self
            .strategy
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = strategy;
    }

    /// Goes along with a spool file: whoever packs faster than the store takes it waits here.
    pub(crate) async fn may_spool(&self) -> Result<OwnedSemaphorePermit, BuildError> {
        owned_permit(&self.spooling).await
    }

    /// Goes along with the thread that packs: that one is not stopped when its build is.
    pub(crate) async fn may_pack(&self) -> Result<OwnedSemaphorePermit, BuildError> {
        owned_permit(&self.packing).await
    }

    /// The image that was built for a key, if every blob of it is still there.
    pub(crate) async fn cached_image(
        &self,
        key: Digest,
        request: &ImageRequest,
    ) -> Result<Option<Image>, BuildError> {
        let entry = Key::new(MANIFESTS, key);
        let record = record::load::<ImageRecord>(&*self.storage, &entry).await;
        let Some(record) = record.map_err(BuildError::looked_up)? else {
            return Ok(None);
        };
        if !self.blobs.are_there(record.blobs()).await? {
            tracing::info!(image = %request.name, "blobs of a cached image are gone: building it again");
            return Ok(None);
        }
        let Some(oci) = self.manifest(&record.oci.digest).await? else {
            return Ok(None);
        };
        let docker = match &record.docker {
            None => None,
            Some(docker) => match self.manifest(&docker.digest).await? {
                None => return Ok(None),
                docker => docker,
            },
        };
        let mut layers = record.layers;
        layers.iter_mut().for_each(|layer| layer.cached = true);
        Ok(Some(Image {
            key,
            name: request.name.canonical().to_owned(),
            packages: record.packages,
            architecture: record.architecture,
            docker,
            oci,
            config: record.config,
            stats: BuildStats {
                from_cache: true,
                layers_cached: layers.len(),
                ..BuildStats::default()
            },
            layers,
        }))
    }

    /// A manifest by its digest; `None` where the store has none, or a damaged one.
    pub(crate) async fn manifest(
        &self,
        digest: &Digest,
    ) -> Result<Option<ManifestBlob>, BuildError> {
        let key = Key::blob(*digest);
        let bytes = match self.storage.get_bytes(&key, MAX_MANIFEST).await {
            Ok(Some(bytes)) => bytes,
            // So large a blob is a layer.
            Ok(None) | Err(StorageError::TooLarge { .. }) => return Ok(None),
            Err(source) => return Err(BuildError::looked_up(source)),
        };
        if let Err(error) = digest.verify(&bytes) {
            tracing::error!(%key, %error, "a stored blob is damaged; `nixery verify` finds them all");
            let _ = self.blobs.missing(digest);
            return Ok(None);
        }
        Ok(crate::image::sniff_manifest(
            *digest,
            bytes,
            |digest, size| self.blobs.expect(digest, size),
        ))
    }

    /// Stores a small blob, over a damaged one if need be.
    pub(crate) async fn store_blob(&self, blob: &Blob) -> Result<(), BuildError> {
        let bytes = Bytes::from(blob.bytes.clone());
        self.blobs.put(blob.digest, bytes).await
    }

    /// A manifest as [`manifest`](Self::manifest), to be served by its digest: what it names stays
    /// for the client to fetch, also where no cache entry leads to it any more.
    pub(crate) async fn manifest_to_serve(
        &self,
        digest: &Digest,
    ) -> Result<Option<ManifestBlob>, BuildError> {
        let Some(manifest) = self.manifest(digest).await? else {
            return Ok(None);
        };
        let size = manifest.bytes.len() as u64;
        match self.blobs.hold(*digest, size).await {
            Ok(there) => Ok(there.then_some(manifest)),
            // It can be read: a store that cannot be written to still serves.
            Err(error) => {
                tracing::warn!(%digest, %error, "a use mark could not be written");
                Ok(Some(manifest))
            }
        }
    }
}

async fn owned_permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, BuildError> {
    let permit = Arc::clone(semaphore).acquire_owned().await;
    // Never closed.
    permit.map_err(BuildError::internal)
}

/// Waits for one's turn.
pub(crate) async fn permit(semaphore: &Semaphore) -> Result<SemaphorePermit<'_>, BuildError> {
    // Never closed.
    semaphore.acquire().await.map_err(BuildError::internal)
}
