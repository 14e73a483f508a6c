//! The builder: takes requests, runs one build per image, remembers what came of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nixery_core::LayerStrategy;
use nixery_manifest::Digest;
use nixery_nix::Nix;
use nixery_state::graphs::{self, RecordedGraph};
use nixery_storage::{Storage, error_causes};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::config::{BuilderConfig, ImageRequest};
use crate::engine::Engine;
use crate::error::{BuildError, BuilderError};
use crate::flow::{self, Built};
use crate::handle::{BuildHandle, BuildSummary, Purpose};
use crate::history::History;
use crate::image::{Image, ManifestBlob};
use crate::keyed_lock::KeyedLocks;
use crate::progress::BuildId;
use crate::target::Target;
use crate::warm::Warm;

/// Builds images. Cheap to clone; clones share everything.
///
/// One image is built once however many ask for it, and its build goes on whoever stops waiting.
#[derive(Debug, Clone)]
pub struct Builder(Arc<Inner>);

/// An image that needs no build.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The image.
    pub image: Arc<Image>,
    /// A build in the background that looks whether the source has moved, if it was time for one.
    pub refresh: Option<BuildHandle>,
}

#[derive(Debug)]
struct Inner {
    engine: Arc<Engine>,
    history: Mutex<History>,
    warm: Mutex<Warm>,
    /// Images that are looked at in the store before they answer.
    checks: KeyedLocks<Target>,
    running: watch::Sender<usize>,
    /// Graphs of images that are being recorded.
    recordings: TaskTracker,
    runtime: Handle,
}

impl Builder {
    /// A builder with its own directory below `config.spool_dir`. Builds run on this runtime.
    ///
    /// Tries out whether leases work in the store, and warns where they do not.
    ///
    /// # Errors
    /// The spool directory cannot be used.
    pub async fn new(
        config: BuilderConfig,
        nix: Arc<dyn Nix>,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, BuilderError> {
        let history = History::new(config.history, config.failure_ttl);
        let warm = Warm::new(&config);
        Ok(Self(Arc::new(Inner {
            engine: Arc::new(Engine::new(config, nix, storage).await?),
            history: Mutex::new(history),
            warm: Mutex::new(warm),
            checks: KeyedLocks::default(),
            running: watch::Sender::new(0),
            recordings: TaskTracker::new(),
            runtime: Handle::current(),
        })))
    }

    /// The image that answers a request without Nix, mostly without the store as well: one whose
    /// source cannot change, or was looked at within `eval_interval`.
    ///
    /// One of a moving source that is older answers for a while too, and its source is evaluated in
    /// the background. `None`: only a build can answer, see [`request`](Self::request).
    pub async fn ready(&self, request: &ImageRequest) -> Option<Ready> {
        let target = self.target(request);
        let mut found = self.warm().get(&target)?;
        if !found.checked {
            let _lock = self.0.checks.lock(target.clone()).await;
            // Whoever had the lock may have looked.
            found = self.warm().get(&target)?;
            if !found.checked {
                found.image = self.look_up(&target, found.key, request).await?;
            }
        }
        let due = found.stale && self.may_refresh() && self.warm().try_again(&target);
        let refresh = due.then(|| self.begin(request.clone(), Purpose::Refresh));
        let image = found.image;
        Some(Ready { image, refresh })
    }

    /// Whether a build may begin that nobody waits for: where many wait, these come first.
    fn may_refresh(&self) -> bool {
        self.running().saturating_mul(2) < self.config().max_waiting.max(1)
    }

    /// The image that the cache has under a key, as long as it does.
    async fn look_up(
        &self,
        target: &Target,
        key: Digest,
        request: &ImageRequest,
    ) -> Option<Arc<Image>> {
        let at = Instant::now();
        // A build tells why the store cannot be read, or makes the image again.
        let Some(image) = self.0.engine.cached_image(key, request).await.ok()? else {
            self.warm().forget(target, &key);
            return None;
        };
        let image = Arc::new(image);
        self.warm().checked(target, &key, &image, at);
        Some(image)
    }

    fn target(&self, request: &ImageRequest) -> Target {
        Target {
            name: request.name.clone(),
            source: self.config().source.resolve(&request.tag),
        }
    }

    /// Starts building an image, or joins the build that runs, or returns one that failed less than
    /// `failure_ttl` ago. A build looks for the image in the store first.
    ///
    /// Where `max_waiting` builds run or wait already, the handle has failed with
    /// [`BuildError::Busy`] and nothing remembers it.
    pub fn request(&self, request: ImageRequest) -> BuildHandle {
        self.begin(request, Purpose::Request)
    }

    fn begin(&self, request: ImageRequest, purpose: Purpose) -> BuildHandle {
        let target = self.target(&request);
        let mut history = self.history();
        if let Some(handle) = history.current(&target) {
            return handle;
        }
        let handle = BuildHandle::new(request, target, purpose);
        let waiting = self.running();
        if waiting >= self.config().max_waiting.max(1) {
            tracing::warn!(image = %handle.request().name, waiting, "too many builds wait: refused");
            handle.finish(Err(Arc::new(BuildError::Busy { waiting })));
            return handle;
        }
        history.started(&handle);
        self.0.running.send_modify(|running| *running += 1);
        drop(history);
        self.0
            .runtime
            .spawn(supervise(self.clone(), handle.clone()));
        handle
    }

    /// The builds that run and the last ones that ended, newest first.
    pub fn recent(&self) -> Vec<BuildSummary> {
        self.history().handles().map(BuildHandle::summary).collect()
    }

    /// A build by its id, as long as it is remembered.
    pub fn find(&self, id: &BuildId) -> Option<BuildHandle> {
        self.history()
            .handles()
            .find(|handle| handle.id() == *id)
            .cloned()
    }

    /// How a build stands, as long as it is remembered.
    pub fn summary(&self, id: &BuildId) -> Option<BuildSummary> {
        self.find(id).map(|handle| handle.summary())
    }

    /// The store the images are in.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.0.engine.storage
    }

    /// The settings.
    pub fn config(&self) -> &BuilderConfig {
        &self.0.engine.config
    }

    /// How images are grouped into layers now.
    pub fn strategy(&self) -> Arc<dyn LayerStrategy> {
        self.0.engine.strategy()
    }

    /// Groups images in another way from now on: [`BuilderConfig::strategy`] is only what a builder starts with.
    /// Builds that run end as they began, and whoever joins them gets what they give; what they give is not kept
    /// in memory.
    pub fn set_strategy(&self, strategy: Arc<dyn LayerStrategy>) {
        self.0.engine.set_strategy(strategy);
        // After it: see `keep_warm`.
        self.warm().clear();
    }

    /// Keeps what a build ended with in memory, unless it is grouped as images are not any more.
    fn keep_warm(
        &self,
        build: &BuildHandle,
        image: &Arc<Image>,
        strategy: &Arc<dyn LayerStrategy>,
    ) {
        let mut warm = self.warm();
        // Under the lock: what is kept before a new strategy is set is forgotten right after it.
        if Arc::ptr_eq(strategy, &self.0.engine.strategy()) {
            warm.built(build, image);
        }
    }

    /// The Nix that builds.
    pub fn nix(&self) -> &Arc<dyn Nix> {
        &self.0.engine.nix
    }

    /// Number of builds that run or wait for their turn.
    pub fn running(&self) -> usize {
        *self.0.running.borrow()
    }

    /// Waits until no build runs, what they held is recorded, and other servers on the store can know it.
    pub async fn drain(&self) {
        // The sender is in `self`: the channel is open.
        let _ = self
            .0
            .running
            .subscribe()
            .wait_for(|running| *running == 0)
            .await;
        self.recorded().await;
        self.0.engine.leases.settled().await;
    }

    /// Waits until the graphs of all images that have been built are recorded, see [`graphs`], or
    /// their recording was given up.
    pub async fn recorded(&self) {
        // A closed tracker takes more tasks; only an open one is waited for in vain.
        self.0.recordings.close();
        self.0.recordings.wait().await;
    }

    /// For a process that ends before its builds do: lets other servers on the store, which wait
    /// for these builds, begin them at once.
    pub async fn leave(&self) {
        self.0.engine.leases.give_up().await;
    }

    /// The manifest or index with this digest, verified; `None` where the store has none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn manifest_by_digest(
        &self,
        digest: &Digest,
    ) -> Result<Option<ManifestBlob>, BuildError> {
        self.0.engine.manifest_to_serve(digest).await
    }

    /// Tells that an image is being served, by the digest of the manifest the client gets: the
    /// collection of garbage drops what was not used for long. Cheap; writes a mark in the
    /// background now and then.
    pub fn used(&self, manifest: &Digest) {
        let uses = self.0.engine.blobs.uses();
        uses.mark_soon(*manifest, &self.0.runtime);
    }

    /// Records that a blob is missing or damaged: images that need it are checked, and repaired, at
    /// their next request.
    pub(crate) fn report_missing(&self, digest: &Digest) {
        // Anybody may ask for a blob that no known image needs: it is not worth the search.
        if self.0.engine.blobs.missing(digest) {
            self.warm().doubt(digest);
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn warm(&self) -> MutexGuard<'_, Warm> {
        self.0.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.0
            .history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a build to its end, whatever that is, and announces it.
async fn supervise(builder: Builder, handle: BuildHandle) {
    let name = handle.request().name.clone();
    tracing::info!(build = %handle.id(), image = %name, tag = %handle.request().tag, "build started");
    let strategy = builder.strategy();
    let result = run_detached(&builder.0.engine, &strategy, &handle).await;
    match &result {
        Ok((image, _)) => {
            let (from_cache, times) = (image.stats.from_cache, image.stats.times());
            tracing::info!(build = %handle.id(), image = %name, digest = %image.oci.digest, from_cache, times, "build finished");
        }
        Err(error) => {
            let cause = error_causes(error);
            tracing::warn!(build = %handle.id(), image = %name, kind = %error.kind(), cause, "build failed: {error}");
            handle.log().push(&format!("error: {error}"));
        }
    }
    let (result, graph) = match result {
        Ok((image, graph)) => (Ok(Arc::new(image)), graph),
        Err(error) => (Err(Arc::new(error)), None),
    };
    if let Ok(image) = &result {
        // First: whoever waited and asks again finds it.
        builder.keep_warm(&handle, image, &strategy);
    }
    // Before the build counts as ended, so that whoever drains the builder waits for it.
    if let (Ok(image), Some(graph)) = (&result, graph) {
        let storage = Arc::clone(builder.storage());
        let image = Arc::clone(image);
        let recording = async move {
            let (name, packages) = (image.name.clone(), image.packages.clone());
            let graph =
                RecordedGraph::new(name, packages, image.architecture, &image.layers, graph);
            graphs::remember(storage, image.key, graph).await;
        };
        builder.0.recordings.spawn_on(recording, &builder.0.runtime);
    }
    handle.finish(result);
    builder.history().ended(&handle);
    builder.0.running.send_modify(|running| *running -= 1);
}

/// In a task of its own, so that a panic ends the build and not the waiting.
async fn run_detached(
    engine: &Arc<Engine>,
    strategy: &Arc<dyn LayerStrategy>,
    handle: &BuildHandle,
) -> Result<Built, BuildError> {
    let task = {
        let (engine, strategy) = (Arc::clone(engine), Arc::clone(strategy));
        let handle = handle.clone();
        tokio::spawn(async move { Box::pin(flow::build(&engine, strategy, &handle)).await })
    };
    task.await.unwrap_or_else(|died| {
        Err(BuildError::internal(if died.is_panic() {
            "a task panicked"
        } else {
            "a task was stopped"
        }))
    })
}
