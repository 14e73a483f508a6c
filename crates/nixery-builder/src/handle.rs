//! One build: the side that runs it and the side that waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use nixery_core::{ImageName, ResolvedSource};
use nixery_manifest::Digest;
use nixery_nix::BuildLog;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::assertion::{Joining, PackageVersions, VersionAssertion, VersionCheck};
use crate::config::ImageRequest;
use crate::error::BuildError;
use crate::fair_queue::Party;
use crate::image::Image;
use crate::progress::{BuildId, Phase, Progress};

/// How a build ended, shared by all who waited for it.
pub type BuildResult = Result<Arc<Image>, Arc<BuildError>>;

/// Limit of parties on whose behalf a build waits. So many already move it forward, and thousands
/// of clients may join a build.
const MAX_PARTIES: usize = 16;

/// What is built once at a time. Requests with different tags have one target if the tags select
/// the same source, as versions do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BuildTarget {
    /// Equal for requests of the same packages in any order.
    pub(crate) name: ImageName,
    pub(crate) source: ResolvedSource,
    /// The source at its default branch, if the tag may also be a version of a package there. It
    /// is one if the source has no such branch or tag.
    pub(crate) default_branch: Option<ResolvedSource>,
}

impl BuildTarget {
    /// Returns the target of an image whose source no tag but one of `source` selects.
    pub(crate) fn new(name: ImageName, source: ResolvedSource) -> Self {
        Self {
            name,
            source,
            default_branch: None,
        }
    }
}

/// One build, running or finished, as one request sees it. Dropping the handle does not stop the
/// build.
///
/// Requests that assert different versions of a package share a build. Each of them gets the image
/// or the error that its own assertion leads to.
#[derive(Debug, Clone)]
pub struct BuildHandle {
    shared: Arc<Shared>,
    /// The request that started or joined the build.
    request: ImageRequest,
    assertion: Option<VersionAssertion>,
}

#[derive(Debug)]
struct Shared {
    id: BuildId,
    /// The request that started the build.
    first: ImageRequest,
    target: BuildTarget,
    versions: watch::Sender<VersionCheck>,
    /// Whether the tag turned out to be a version at the default branch.
    is_at_default_branch: AtomicBool,
    /// Who started the build and who joined it, each once.
    parties: Mutex<Vec<Party>>,
    is_refresh: bool,
    started: SystemTime,
    clock: Instant,
    /// When Nix began to read the source.
    source_read: OnceLock<Instant>,
    log: BuildLog,
    progress: watch::Sender<Progress>,
    times: Mutex<PhaseTimes>,
    queue_clock: Arc<QueueClock>,
    end: watch::Sender<Option<BuildEnd>>,
}

/// When and how a build ended.
#[derive(Debug, Clone)]
pub(crate) struct BuildEnd {
    pub(crate) result: BuildResult,
    pub(crate) at: Instant,
}

/// How long each phase took that has ended, and when the current one began.
#[derive(Debug)]
struct PhaseTimes {
    ended: Vec<(Phase, Duration)>,
    current: Phase,
    since: Instant,
}

/// Measures how long a build waits for other builds.
#[derive(Debug, Default)]
pub(crate) struct QueueClock(Mutex<QueueTime>);

#[derive(Debug, Default)]
struct QueueTime {
    /// The waits that have ended.
    ended: Duration,
    /// When the current wait began.
    since: Option<Instant>,
}

impl QueueClock {
    /// Notes that the build waits from now on.
    pub(crate) fn start(&self) {
        lock(&self.0).since = Some(Instant::now());
    }

    /// Notes that the build no longer waits.
    pub(crate) fn stop(&self) {
        let mut time = lock(&self.0);
        if let Some(since) = time.since.take() {
            time.ended += since.elapsed();
        }
    }

    /// Returns how long the build has waited so far.
    pub(crate) fn elapsed(&self) -> Duration {
        let time = lock(&self.0);
        time.ended + time.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl BuildHandle {
    /// Returns the build of a target that a party starts.
    pub(crate) fn new(request: ImageRequest, target: BuildTarget, party: Party) -> Self {
        let progress = watch::Sender::new(Progress::default());
        let observed = progress.clone();
        let log = BuildLog::observed(move |line| {
            observed.send_modify(|progress| progress.log_line = Some(line.to_owned()));
        });
        let clock = Instant::now();
        let shared = Arc::new(Shared {
            id: BuildId::fresh(),
            first: request.clone(),
            target,
            versions: watch::Sender::default(),
            is_at_default_branch: AtomicBool::new(false),
            parties: Mutex::new(vec![party]),
            is_refresh: party == Party::Background,
            started: SystemTime::now(),
            clock,
            source_read: OnceLock::new(),
            log,
            progress,
            times: Mutex::new(PhaseTimes {
                ended: Vec::new(),
                current: Phase::Queued,
                since: clock,
            }),
            queue_clock: Arc::default(),
            end: watch::Sender::new(None),
        });
        Self {
            shared,
            request,
            assertion: None,
        }
    }

    /// Joins the build with a request, and returns the build as that request sees it, or why it
    /// cannot join.
    pub(crate) fn join(
        &self,
        request: &ImageRequest,
        assertion: Option<VersionAssertion>,
    ) -> Result<Self, Joining> {
        let mut joining = Joining::TooLate;
        self.shared.versions.send_if_modified(|versions| {
            joining = versions.join(assertion.as_ref());
            false
        });
        if joining != Joining::Joined {
            return Err(joining);
        }
        Ok(Self {
            shared: Arc::clone(&self.shared),
            request: request.clone(),
            assertion,
        })
    }

    /// Returns the build without the assertion of the request: it ends when the build ends, and as
    /// the build ends.
    #[must_use]
    pub fn without_assertion(&self) -> Self {
        Self {
            assertion: None,
            ..self.clone()
        }
    }

    /// Returns the build's name in this process.
    pub fn id(&self) -> BuildId {
        self.shared.id
    }

    /// Returns whether the build was started in the background, see
    /// [`Builder::warm_image`](crate::Builder::warm_image), and not by a request. Requests may have
    /// joined it since.
    pub fn is_refresh(&self) -> bool {
        self.shared.is_refresh
    }

    /// Returns the request that started or joined the build with this handle.
    pub fn request(&self) -> &ImageRequest {
        &self.request
    }

    /// Waits for the end of the build, and returns at once if it has ended. May be dropped and
    /// called again.
    ///
    /// It ends for this request as soon as its tag is known to assert a version that the package
    /// does not have.
    ///
    /// # Errors
    /// Why the build failed, or [`BuildError::OtherVersion`].
    pub async fn wait(&self) -> BuildResult {
        if let Some(assertion) = &self.assertion {
            let mut versions = self.shared.versions.subscribe();
            // The sender lives in `self`, so the channel is open.
            if let Ok(versions) = versions.wait_for(|versions| !versions.is_open()).await {
                versions.check(assertion).map_err(Arc::new)?;
            }
        }
        let mut end = self.shared.end.subscribe();
        let end = end.wait_for(Option::is_some).await;
        match end.as_deref() {
            Ok(Some(end)) => end.result.clone(),
            // The sender lives in `self`, so the channel is open.
            Ok(None) | Err(_) => Err(Arc::new(BuildError::internal("the build was given up"))),
        }
    }

    /// Returns how the build ended for this request, or `None` while it runs.
    pub fn result(&self) -> Option<BuildResult> {
        if let Some(assertion) = &self.assertion
            && let Err(error) = self.shared.versions.borrow().check(assertion)
        {
            return Some(Err(Arc::new(error)));
        }
        self.end().map(|end| end.result)
    }

    /// Returns the build's progress. The receiver always has the latest state and may skip earlier
    /// ones.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Returns the lines of the log from now on.
    pub fn log_lines(&self) -> broadcast::Receiver<Arc<str>> {
        self.shared.log.subscribe()
    }

    /// Returns the build's log.
    pub fn log(&self) -> &BuildLog {
        &self.shared.log
    }

    /// Returns what the build is, and its state now.
    pub fn summary(&self) -> BuildSummary {
        let end = self.end();
        let ended_at = end.as_ref().map_or_else(Instant::now, |end| end.at);
        let state = match end.map(|end| end.result) {
            None => BuildState::Running(self.shared.progress.borrow().phase),
            Some(Ok(image)) => BuildState::Succeeded {
                digest: image.oci.digest,
                size: image.size(),
                layers: image.layers.len(),
                from_cache: image.stats.from_cache,
            },
            Some(Err(error)) => BuildState::Failed(error),
        };
        BuildSummary {
            id: self.shared.id,
            image: self.shared.first.name.canonical().to_owned(),
            tag: self.shared.first.tag.as_str().to_owned(),
            started: self.shared.started,
            elapsed: ended_at.saturating_duration_since(self.shared.clock),
            state,
        }
    }

    pub(crate) fn target(&self) -> &BuildTarget {
        &self.shared.target
    }

    /// Returns the target under which the image is known: that of the default branch if the tag
    /// turned out to be a version.
    pub(crate) fn image_target(&self) -> BuildTarget {
        let target = self.target();
        match &target.default_branch {
            Some(source) if self.is_at_default_branch() => {
                BuildTarget::new(target.name.clone(), source.clone())
            }
            _ => target.clone(),
        }
    }

    /// Notes that the source has no branch or tag of this name, so that it is a version.
    pub(crate) fn take_default_branch(&self) {
        self.shared
            .is_at_default_branch
            .store(true, Ordering::Relaxed);
    }

    /// Whether the tag turned out to be a version of a package at the default branch.
    pub(crate) fn is_at_default_branch(&self) -> bool {
        self.shared.is_at_default_branch.load(Ordering::Relaxed)
    }

    /// Notes that the tag is a branch or tag of the source, so that it asserts no version.
    pub(crate) fn drop_assertions(&self) {
        self.shared.versions.send_modify(VersionCheck::void);
    }

    /// Notes the versions of the packages. Requests that assert others end.
    ///
    /// # Errors
    /// No request accepts these versions.
    pub(crate) fn check_versions(&self, versions: &PackageVersions) -> Result<(), BuildError> {
        let mut refused = None;
        self.shared.versions.send_modify(|check| {
            refused = check.decide(versions).err();
        });
        refused.map_or(Ok(()), Err)
    }

    /// Whether no request asserts a version. If so, none that does can join any more.
    pub(crate) fn needs_no_versions(&self) -> bool {
        let mut needs_none = false;
        self.shared
            .versions
            .send_modify(|check| needs_none = check.close_unasserted());
        needs_none
    }

    pub(crate) fn end(&self) -> Option<BuildEnd> {
        self.shared.end.borrow().clone()
    }

    /// Notes that Nix reads the source since this time. The first call counts.
    pub(crate) fn source_is_read(&self, since: Instant) {
        let _ = self.shared.source_read.set(since);
    }

    /// Returns when Nix began to read the source, or when the build started if Nix did not read it.
    pub(crate) fn source_read_at(&self) -> Instant {
        *self.shared.source_read.get().unwrap_or(&self.shared.clock)
    }

    /// Returns on whose behalf the build waits, at least one party.
    pub(crate) fn parties(&self) -> Vec<Party> {
        lock(&self.shared.parties).clone()
    }

    /// Adds a party that waits for the build. Returns whether it is new.
    pub(crate) fn add_party(&self, party: Party) -> bool {
        let mut parties = lock(&self.shared.parties);
        let is_new = parties.len() < MAX_PARTIES && !parties.contains(&party);
        if is_new {
            parties.push(party);
        }
        is_new
    }

    /// Returns the clock of the time in which the build waits for other builds.
    pub(crate) fn queue_clock(&self) -> &Arc<QueueClock> {
        &self.shared.queue_clock
    }

    /// Ends the current phase and begins the next one.
    pub(crate) fn enter(&self, phase: Phase) {
        let mut times = self.times();
        let (current, elapsed) = (times.current, times.since.elapsed());
        match times.ended.iter_mut().find(|(ended, _)| *ended == current) {
            Some((_, total)) => *total += elapsed,
            None => times.ended.push((current, elapsed)),
        }
        (times.current, times.since) = (phase, Instant::now());
        drop(times);
        self.update(|progress| progress.phase = phase);
    }

    /// Returns how long each phase took that has ended, in the order of their beginnings.
    pub(crate) fn phase_times(&self) -> Vec<(Phase, Duration)> {
        self.times().ended.clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.shared.progress.send_modify(change);
    }

    pub(crate) fn finish(&self, result: BuildResult) {
        // Where the versions are known, the assertions were checked.
        self.drop_assertions();
        self.enter(match result {
            Ok(_) => Phase::Done,
            Err(_) => Phase::Failed,
        });
        let at = Instant::now();
        self.shared.end.send_replace(Some(BuildEnd { result, at }));
    }

    fn times(&self) -> MutexGuard<'_, PhaseTimes> {
        lock(&self.shared.times)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A build as lists show it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildSummary {
    /// The build's name in this process.
    pub id: BuildId,
    /// Canonical image name.
    pub image: String,
    /// The tag in the request.
    pub tag: String,
    /// When the build started.
    pub started: SystemTime,
    /// How long the build took, or has been running.
    pub elapsed: Duration,
    /// Whether the build runs, and how it ended.
    pub state: BuildState,
}

/// The state of a build.
#[derive(Debug, Clone)]
pub enum BuildState {
    /// The build runs.
    Running(Phase),
    /// The image is in the store.
    Succeeded {
        /// Digest of the OCI manifest.
        digest: Digest,
        /// Compressed bytes of all layers.
        size: u64,
        /// Number of layers.
        layers: usize,
        /// Nothing had to be built: the store had the image.
        from_cache: bool,
    },
    /// The build failed.
    Failed(Arc<BuildError>),
}
