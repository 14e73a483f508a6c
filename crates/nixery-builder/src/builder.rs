//! The builder: takes requests, runs one build per image, and remembers the results.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use nixery_core::{LayerStrategy, ReferenceGraph};
use nixery_nix::{Nix, SpoolError};
use nixery_state::graphs::{self, RecordedGraph};
use nixery_storage::{Storage, error_chain};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Admitted};
use crate::assertion::Joining;
use crate::client_id::ClientId;
use crate::config::{BuilderConfig, ImageRequest};
use crate::engine::Engine;
use crate::error::BuildError;
use crate::fair_queue::Party;
use crate::flow::{self, Built};
use crate::handle::{BuildHandle, BuildSummary, BuildTarget};
use crate::history::BuildHistory;
use crate::image::Image;
use crate::image_store;
use crate::keyed_lock::KeyedLocks;
use crate::progress::{BuildId, Phase};
use crate::selected_image::{SelectedImage, VersionTags};
use crate::warm::{Candidate, WarmImages};

/// Builds images. Cheap to clone; clones share everything.
///
/// Requests for one image share one build. The build continues if all requests are dropped.
#[derive(Debug, Clone)]
pub struct Builder(Arc<Inner>);

/// An image that answers a request without a build.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WarmImage {
    /// The image.
    pub image: Arc<Image>,
    /// A build in the background that finds out whether the source has moved, if one is due.
    pub refresh: Option<BuildHandle>,
}

#[derive(Debug)]
struct Inner {
    engine: Arc<Engine>,
    /// How images that are requested now are grouped into layers. A build reads it once.
    strategy: RwLock<Arc<dyn LayerStrategy>>,
    history: Mutex<BuildHistory>,
    admission: Admission,
    warm: Mutex<WarmImages>,
    version_tags: VersionTags,
    /// Held while a warm image is looked up in the store.
    warm_locks: KeyedLocks<BuildTarget>,
    running: watch::Sender<usize>,
    /// Tasks that record the graphs of images.
    recordings: TaskTracker,
    runtime: Handle,
}

impl Builder {
    /// Creates a builder with its own directory below `config.spool_dir`. Builds run on this
    /// runtime.
    ///
    /// Tests whether leases work in the store, and logs a warning if they do not.
    ///
    /// # Errors
    /// The spool directory cannot be used.
    pub async fn new(
        config: BuilderConfig,
        nix: Arc<dyn Nix>,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, SpoolError> {
        Ok(Self(Arc::new(Inner {
            strategy: RwLock::new(Arc::clone(&config.strategy)),
            history: Mutex::new(BuildHistory::new(config.history, config.failure_ttl)),
            admission: Admission::new(config.max_waiting, config.max_waiting_per_client),
            warm: Mutex::new(WarmImages::new(&config)),
            version_tags: VersionTags::new(config.eval_interval),
            engine: Arc::new(Engine::new(config, nix, storage).await?),
            warm_locks: KeyedLocks::default(),
            running: watch::Sender::new(0),
            recordings: TaskTracker::new(),
            runtime: Handle::current(),
        })))
    }

    /// Returns the image that answers a request from memory, without Nix and mostly without the
    /// store: its source cannot change, or was evaluated within `eval_interval`.
    ///
    /// An older image of a moving source still answers for some intervals, while its source is
    /// evaluated in the background. The time in which that evaluation waits for other builds does
    /// not count. `None`: only a build can answer, see [`start`](Self::start).
    ///
    /// # Errors
    /// The tag means nothing, or asserts a version that the package does not have. A version is
    /// refused only if the source was evaluated within `eval_interval`.
    pub async fn warm_image(
        &self,
        request: &ImageRequest,
    ) -> Result<Option<WarmImage>, BuildError> {
        let selected = self.select(request)?;
        let Some(entry) = self.warm_candidate(request, &selected).await? else {
            return Ok(None);
        };
        let target = &selected.target;
        let due = entry.stale && self.warm_images().begin_refresh(target);
        let refresh = due.then(|| self.start_or_join(request.clone(), selected, Party::Background));
        if let Some(refresh) = &refresh {
            self.warm_images().refreshes(refresh.target(), refresh);
        }
        Ok(Some(WarmImage {
            image: entry.image,
            refresh,
        }))
    }

    /// Returns the image that answers a request from memory as [`warm_image`](Self::warm_image)
    /// does, but never starts an evaluation: for a client that may cause no work.
    ///
    /// # Errors
    /// As for [`warm_image`](Self::warm_image).
    pub async fn kept_image(
        &self,
        request: &ImageRequest,
    ) -> Result<Option<Arc<Image>>, BuildError> {
        let selected = self.select(request)?;
        let entry = self.warm_candidate(request, &selected).await?;
        Ok(entry.map(|entry| entry.image))
    }

    /// Returns the image in memory that answers a request, once the store is known to have it.
    async fn warm_candidate(
        &self,
        request: &ImageRequest,
        selected: &SelectedImage,
    ) -> Result<Option<Candidate>, BuildError> {
        let target = &selected.target;
        // A shorter name of the same image may be in memory.
        if self.config().check_packages(&request.name).is_err() {
            return Ok(None);
        }
        let Some(mut entry) = self.warm_images().get(target) else {
            return Ok(None);
        };
        if let Some(assertion) = selected.assertion_of_image() {
            match &entry.image.versions {
                None => return Ok(None),
                Some(versions) => match assertion.check(versions) {
                    Ok(()) => {}
                    // The source may have moved to this version.
                    Err(_) if entry.stale => return Ok(None),
                    Err(refused) => return Err(refused),
                },
            }
        }
        if !entry.confirmed {
            let confirmed = self.confirm(request, target).await;
            let Some(confirmed) = confirmed else {
                return Ok(None);
            };
            entry = confirmed;
        }
        Ok(Some(entry))
    }

    /// Looks an image in memory up in the store. `None`: the store does not have it, or fails.
    async fn confirm(&self, request: &ImageRequest, target: &BuildTarget) -> Option<Candidate> {
        let _lock = self.0.warm_locks.lock(target.clone()).await;
        // The previous holder of the lock may have confirmed the image.
        let mut entry = self.warm_images().get(target)?;
        if !entry.confirmed {
            let begun = Instant::now();
            let found = image_store::find(self.engine(), entry.image.key, request);
            // If the store cannot be read, a build reports the reason.
            let Some(mut found) = found.await.ok()? else {
                self.warm_images().remove(target, &entry.image.key);
                return None;
            };
            // An older record does not have them.
            found.versions = found.versions.or_else(|| entry.image.versions.clone());
            entry.image = Arc::new(found);
            self.warm_images().confirm(target, &entry.image, begun);
        }
        Some(entry)
    }

    /// Returns the build that a request joins, if one runs or failed a moment ago. Joining it
    /// causes no new work.
    pub fn current_build(&self, request: &ImageRequest) -> Option<BuildHandle> {
        let selected = self.select(request).ok()?;
        let current = self.history().current(&selected.target)?;
        current.join(request, selected.assertion).ok()
    }

    /// Starts building an image as [`start_for`](Self::start_for) does, for a caller without
    /// clients.
    pub fn start(&self, request: ImageRequest) -> BuildHandle {
        self.start_for(request, ClientId::default())
    }

    /// Starts building an image, joins the build that runs, or returns one that failed less than
    /// `failure_ttl` ago. A build looks for the image in the store first.
    ///
    /// Builds that wait for others are served in rotation, one client after the other. A client
    /// that joins a build moves it forward to its own place.
    ///
    /// If `max_waiting` builds run or wait already, the returned build has failed with
    /// [`BuildError::Busy`], and if the client started `max_waiting_per_client` of them, with
    /// [`BuildError::QuotaExceeded`]. If the name lists more than `max_packages`, it has failed
    /// with [`BuildError::TooManyPackages`], and with [`BuildError::UnknownTag`] if the tag means
    /// nothing. Such builds are not remembered.
    ///
    /// Requests that assert versions of packages join the build of the image, which ends before
    /// anything is built if no request accepts the version.
    pub fn start_for(&self, request: ImageRequest, client: ClientId) -> BuildHandle {
        let party = Party::Client(client);
        match self.select(&request) {
            Ok(selected) => self.start_or_join(request, selected, party),
            Err(error) => {
                let source = self.config().source.resolve(&request.tag);
                let target = BuildTarget::new(request.name.clone(), source);
                refuse(BuildHandle::new(request, target, party), party, error)
            }
        }
    }

    fn start_or_join(
        &self,
        request: ImageRequest,
        selected: SelectedImage,
        party: Party,
    ) -> BuildHandle {
        let SelectedImage { target, assertion } = selected;
        // What is evaluated in the background is wanted at any version.
        let assertion = assertion.filter(|_| party != Party::Background);
        let handle = BuildHandle::new(request, target, party);
        let request = handle.request();
        if let Err(error) = self.config().check_packages(&request.name) {
            return refuse(handle, party, error);
        }
        let mut history = self.history();
        let joined = history.current(handle.target());
        match joined.map(|current| current.join(request, assertion.clone())) {
            Some(Ok(joined)) => {
                drop(history);
                self.engine().lend_place(&joined, party);
                return joined;
            }
            Some(Err(Joining::Full)) => {
                let waiting = self.running();
                return refuse(handle, party, BuildError::Busy { waiting });
            }
            Some(Err(_)) | None => {}
        }
        let admitted = match self.0.admission.admit(party) {
            Ok(admitted) => admitted,
            Err(error) => return refuse(handle, party, error),
        };
        let view = handle.join(request, assertion);
        history.started(&handle);
        self.0.running.send_modify(|running| *running += 1);
        drop(history);
        let build = supervise(self.clone(), handle.clone(), admitted);
        self.0.runtime.spawn(build);
        // The first request can always join.
        view.unwrap_or(handle)
    }

    /// Returns the builds that run and the last ones that ended, newest first.
    pub fn recent(&self) -> Vec<BuildSummary> {
        self.history().handles().map(BuildHandle::summary).collect()
    }

    /// Returns a build by its id, as long as it is remembered.
    pub fn find(&self, id: &BuildId) -> Option<BuildHandle> {
        let history = self.history();
        history.handles().find(|handle| handle.id() == *id).cloned()
    }

    /// Returns the number of builds that run or wait.
    pub fn running(&self) -> usize {
        *self.0.running.borrow()
    }

    /// Returns the store of the images.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.0.engine.storage
    }

    /// Returns the settings.
    pub fn config(&self) -> &BuilderConfig {
        &self.0.engine.config
    }

    /// Returns the Nix that builds.
    pub fn nix(&self) -> &Arc<dyn Nix> {
        &self.0.engine.nix
    }

    /// Returns the strategy that groups images into layers now.
    pub fn strategy(&self) -> Arc<dyn LayerStrategy> {
        let strategy = self.0.strategy.read();
        Arc::clone(&strategy.unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the strategy that groups images into layers; [`BuilderConfig::strategy`] is the
    /// first one.
    ///
    /// Running builds keep the strategy they started with, also for requests that join them. Their
    /// images are not kept in memory.
    pub fn set_strategy(&self, strategy: Arc<dyn LayerStrategy>) {
        let current = self.0.strategy.write();
        *current.unwrap_or_else(PoisonError::into_inner) = strategy;
        // After the strategy is set, see `keep_warm`.
        self.warm_images().clear();
    }

    /// Keeps the image of a build in memory, unless the strategy was replaced meanwhile.
    fn keep_warm(
        &self,
        build: &BuildHandle,
        image: &Arc<Image>,
        strategy: &Arc<dyn LayerStrategy>,
    ) {
        let mut warm = self.warm_images();
        // Checked under the lock: `set_strategy` clears what was kept before.
        if Arc::ptr_eq(strategy, &self.strategy()) {
            warm.insert(build, image);
        }
    }

    /// Waits until no build runs, the graphs of the images are recorded, and the leases of the
    /// builds are released.
    pub async fn drain(&self) {
        let mut running = self.0.running.subscribe();
        // The sender is in `self`, so the channel is open.
        let _ = running.wait_for(|running| *running == 0).await;
        // `wait` ends only if the tracker is closed, which still accepts tasks.
        self.0.recordings.close();
        self.0.recordings.wait().await;
        self.0.engine.leases.settled().await;
    }

    /// Releases the leases of running builds, for a process that ends before its builds. Other
    /// servers on the store that wait for these builds start them at once.
    pub async fn release_leases(&self) {
        self.0.engine.leases.give_up().await;
    }

    /// Records the graph of an image in the background.
    fn record_graph(&self, image: &Arc<Image>, graph: ReferenceGraph) {
        let (storage, image) = (Arc::clone(self.storage()), Arc::clone(image));
        let recording = async move {
            let (name, packages) = (image.name.clone(), image.packages.clone());
            let graph =
                RecordedGraph::new(name, packages, image.architecture, &image.layers, graph);
            graphs::remember(storage, image.key, graph).await;
        };
        self.0.recordings.spawn_on(recording, &self.0.runtime);
    }

    pub(crate) fn version_tags(&self) -> &VersionTags {
        &self.0.version_tags
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    pub(crate) fn warm_images(&self) -> MutexGuard<'_, WarmImages> {
        self.0.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, BuildHistory> {
        let history = self.0.history.lock();
        history.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a build that does not begin.
fn refuse(handle: BuildHandle, party: Party, error: BuildError) -> BuildHandle {
    tracing::warn!(image = %handle.request().name, ?party, "refused a build: {error}");
    handle.finish(Err(Arc::new(error)));
    handle
}

/// Runs a build to its end, and keeps and announces its result.
async fn supervise(builder: Builder, handle: BuildHandle, admitted: Option<Admitted>) {
    let name = handle.request().name.clone();
    tracing::info!(build = %handle.id(), image = %name, tag = %handle.request().tag, "build started");
    let strategy = builder.strategy();
    let result = match run_detached(&builder.0.engine, &strategy, &handle).await {
        Ok((mut image, graph)) => {
            handle.enter(Phase::Done);
            image.stats.phases = handle.phase_times();
            image.stats.immutable = handle.target().source.revision.is_some();
            let (from_cache, times) = (image.stats.from_cache, image.stats.times());
            tracing::info!(build = %handle.id(), image = %name, digest = %image.oci.digest, from_cache, times, "build finished");
            let image = Arc::new(image);
            // Before the build ends: who waited for it and asks again finds the image in memory.
            builder.keep_warm(&handle, &image, &strategy);
            // Before the build ends: `drain` waits for the recording.
            if let Some(graph) = graph {
                builder.record_graph(&image, graph);
            }
            Ok(image)
        }
        Err(error) => {
            tracing::warn!(build = %handle.id(), image = %name, kind = %error.kind(), "build failed: {}", error_chain(&error));
            handle.log().push(&format!("error: {error}"));
            Err(Arc::new(error))
        }
    };
    // Before the build ends: who waited for it may start the next one.
    drop(admitted);
    if handle.is_at_default_branch() {
        builder.version_tags().remember(&handle.request().tag);
    }
    handle.finish(result);
    builder.history().ended(&handle);
    builder.0.running.send_modify(|running| *running -= 1);
}

/// Runs a build in its own task, so that a panic becomes an error of the build.
async fn run_detached(
    engine: &Arc<Engine>,
    strategy: &Arc<dyn LayerStrategy>,
    handle: &BuildHandle,
) -> Result<Built, BuildError> {
    let (engine, strategy) = (Arc::clone(engine), Arc::clone(strategy));
    let handle = handle.clone();
    let build = async move { flow::build(&engine, strategy, &handle).await };
    tokio::spawn(build).await.unwrap_or_else(|end| {
        Err(BuildError::internal(if end.is_panic() {
            "a task panicked"
        } else {
            "a task was stopped"
        }))
    })
}
