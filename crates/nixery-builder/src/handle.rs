//! One build: the side that runs it and the side that waits for it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use nixery_core::{ImageName, ResolvedSource};
use nixery_manifest::Digest;
use nixery_nix::BuildLog;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

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

/// What is built once at a time. Requests with different tags have one target if the source is not
/// a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BuildTarget {
    /// Equal for requests of the same packages in any order.
    pub(crate) name: ImageName,
    pub(crate) source: ResolvedSource,
}

/// One build, running or finished. Dropping the handle does not stop the build.
#[derive(Debug, Clone)]
pub struct BuildHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: BuildId,
    request: ImageRequest,
    target: BuildTarget,
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
        Self(Arc::new(Shared {
            id: BuildId::fresh(),
            request,
            target,
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
        }))
    }

    /// Returns the build's name in this process.
    pub fn id(&self) -> BuildId {
        self.0.id
    }

    /// Returns whether the build was started in the background, see
    /// [`Builder::warm_image`](crate::Builder::warm_image), and not by a request. Requests may have
    /// joined it since.
    pub fn is_refresh(&self) -> bool {
        self.0.is_refresh
    }

    /// Returns the request that started the build.
    pub fn request(&self) -> &ImageRequest {
        &self.0.request
    }

    /// Waits for the end of the build, and returns at once if it has ended. May be dropped and
    /// called again.
    ///
    /// # Errors
    /// Why the build failed.
    pub async fn wait(&self) -> BuildResult {
        let mut end = self.0.end.subscribe();
        let end = end.wait_for(Option::is_some).await;
        match end.as_deref() {
            Ok(Some(end)) => end.result.clone(),
            // The sender lives in `self`, so the channel is open.
            Ok(None) | Err(_) => Err(Arc::new(BuildError::internal("the build was given up"))),
        }
    }

    /// Returns how the build ended, or `None` while it runs.
    pub fn result(&self) -> Option<BuildResult> {
        self.end().map(|end| end.result)
    }

    /// Returns the build's progress. The receiver always has the latest state and may skip earlier
    /// ones.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.subscribe()
    }

    /// Returns the lines of the log from now on.
    pub fn log_lines(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.log.subscribe()
    }

    /// Returns the build's log.
    pub fn log(&self) -> &BuildLog {
        &self.0.log
    }

    /// Returns what the build is, and its state now.
    pub fn summary(&self) -> BuildSummary {
        let end = self.end();
        let ended_at = end.as_ref().map_or_else(Instant::now, |end| end.at);
        let state = match end.map(|end| end.result) {
            None => BuildState::Running(self.0.progress.borrow().phase),
            Some(Ok(image)) => BuildState::Succeeded {
                digest: image.oci.digest,
                size: image.size(),
                layers: image.layers.len(),
                from_cache: image.stats.from_cache,
            },
            Some(Err(error)) => BuildState::Failed(error),
        };
        BuildSummary {
            id: self.0.id,
            image: self.0.request.name.canonical().to_owned(),
            tag: self.0.request.tag.as_str().to_owned(),
            started: self.0.started,
            elapsed: ended_at.saturating_duration_since(self.0.clock),
            state,
        }
    }

    pub(crate) fn target(&self) -> &BuildTarget {
        &self.0.target
    }

    pub(crate) fn end(&self) -> Option<BuildEnd> {
        self.0.end.borrow().clone()
    }

    /// Notes that Nix reads the source since this time. The first call counts.
    pub(crate) fn source_is_read(&self, since: Instant) {
        let _ = self.0.source_read.set(since);
    }

    /// Returns when Nix began to read the source, or when the build started if Nix did not read it.
    pub(crate) fn source_read_at(&self) -> Instant {
        *self.0.source_read.get().unwrap_or(&self.0.clock)
    }

    /// Returns on whose behalf the build waits, at least one party.
    pub(crate) fn parties(&self) -> Vec<Party> {
        lock(&self.0.parties).clone()
    }

    /// Adds a party that waits for the build. Returns whether it is new.
    pub(crate) fn add_party(&self, party: Party) -> bool {
        let mut parties = lock(&self.0.parties);
        let is_new = parties.len() < MAX_PARTIES && !parties.contains(&party);
        if is_new {
            parties.push(party);
        }
        is_new
    }

    /// Returns the clock of the time in which the build waits for other builds.
    pub(crate) fn queue_clock(&self) -> &Arc<QueueClock> {
        &self.0.queue_clock
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
        self.0.progress.send_modify(change);
    }

    pub(crate) fn finish(&self, result: BuildResult) {
        self.enter(match result {
            Ok(_) => Phase::Done,
            Err(_) => Phase::Failed,
        });
        let at = Instant::now();
        self.0.end.send_replace(Some(BuildEnd { result, at }));
    }

    fn times(&self) -> MutexGuard<'_, PhaseTimes> {
        lock(&self.0.times)
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
