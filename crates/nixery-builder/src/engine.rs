//! What all builds of one builder share.

use std::sync::Arc;

use nixery_core::Packer;
use nixery_manifest::Digest;
use nixery_nix::{InstanceDir, Nix, SpoolError};
use nixery_state::lease::Leases;
use nixery_storage::Storage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::blobs::Blobs;
use crate::config::BuilderConfig;
use crate::error::BuildError;
use crate::fair_limit::{FairLimit, FairPermit};
use crate::fair_queue::Party;
use crate::handle::BuildHandle;
use crate::keyed_lock::KeyedLocks;
use crate::progress::Phase;

/// Packed layers, over all builds, that wait to be stored or are being stored. Each is a file on
/// this server's disk, and the client of a remote store holds parts of it in memory.
const STORE_AHEAD: usize = 8;
/// Evaluations, and realisations, in the background beside those that clients wait for.
const IN_BACKGROUND: usize = 1;

/// Configuration, Nix, the store, and the limits.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: BuilderConfig,
    pub(crate) nix: Arc<dyn Nix>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) blobs: Blobs,
    pub(crate) instance: InstanceDir,
    /// Held while a layer is packed, so that builds that share the layer pack it once. Acquired
    /// after the permit of `spooling`.
    pub(crate) layer_locks: KeyedLocks<Digest>,
    /// Leases of images, so that other servers on the store wait for this one.
    pub(crate) leases: Leases,
    /// Limits how many evaluations run at once.
    pub(crate) evaluations: FairLimit,
    /// Limits how many realisations run at once.
    pub(crate) realisations: FairLimit,
    /// Limits how many threads pack at once.
    pub(crate) packing: Arc<Semaphore>,
    /// Limits how many spool files exist at once. Packing waits while the store is slower.
    pub(crate) spooling: FairLimit,
    pub(crate) max_spool_files: usize,
    pub(crate) packer: Arc<Packer>,
}

impl Engine {
    pub(crate) async fn new(
        config: BuilderConfig,
        nix: Arc<dyn Nix>,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, SpoolError> {
        let instance = InstanceDir::open(&config.spool_dir)?;
        let leases = Leases::where_exclusive(Arc::clone(&storage), config.lease_ttl).await;
        let pack_threads = config.pack_threads.max(1);
        let max_spool_files = pack_threads.saturating_add(STORE_AHEAD);
        Ok(Self {
            leases,
            blobs: Blobs::new(
                Arc::clone(&storage),
                config.confirmed_for(),
                config.gc_grace,
            ),
            instance,
            layer_locks: KeyedLocks::default(),
            evaluations: FairLimit::new(config.max_evaluations.max(1), IN_BACKGROUND),
            realisations: FairLimit::new(config.max_builds.max(1), IN_BACKGROUND),
            packer: Arc::new(Packer::new(pack_threads)),
            packing: Arc::new(Semaphore::new(pack_threads)),
            spooling: FairLimit::new(max_spool_files, 0),
            max_spool_files,
            config,
            nix,
            storage,
        })
    }

    /// Lets a build that waits for a permit wait on behalf of a further party as well.
    pub(crate) fn lend_place(&self, build: &BuildHandle, party: Party) {
        // First of all: what begins to wait from now on finds the party there.
        if build.add_party(party) {
            for limit in [&self.evaluations, &self.realisations, &self.spooling] {
                limit.lend(build.id(), party);
            }
        }
    }
}

/// Waits in the queue of a limit.
pub(crate) async fn queue(
    limit: &FairLimit,
    handle: &BuildHandle,
) -> Result<FairPermit, BuildError> {
    handle.enter(Phase::Queued);
    handle.queue_clock().start();
    let permit = limit.acquire(handle).await;
    handle.queue_clock().stop();
    permit
}

/// Waits for a permit of a semaphore.
pub(crate) async fn permit(limit: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, BuildError> {
    // The semaphores are never closed.
    let permit = Arc::clone(limit).acquire_owned().await;
    permit.map_err(BuildError::internal)
}
