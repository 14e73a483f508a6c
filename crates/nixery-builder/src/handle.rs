//! One build: the side that runs it and the side that waits for it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use nixery_manifest::Digest;
use nixery_nix::BuildLog;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::config::ImageRequest;
use crate::error::BuildError;
use crate::image::Image;
use crate::progress::{BuildId, Phase, Progress};
use crate::target::Target;

/// How a build ended, shared by all who waited for it.
pub type BuildResult = Result<Arc<Image>, Arc<BuildError>>;

/// Why a build was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Somebody asked for the image.
    Request,
    /// To see whether the source has moved, while the last image answers.
    Refresh,
}

/// One build, running or finished. Dropping it does not stop the build.
#[derive(Debug, Clone)]
pub struct BuildHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: BuildId,
    request: ImageRequest,
    target: Target,
    purpose: Purpose,
    started: SystemTime,
    clock: Instant,
    /// When its source was last known to be looked at.
    evaluated: OnceLock<Instant>,
    /// The manifest cache's key of the image.
    key: OnceLock<Digest>,
    log: BuildLog,
    progress: watch::Sender<Progress>,
    outcome: watch::Sender<Option<Outcome>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) result: BuildResult,
    pub(crate) at: Instant,
}

impl BuildHandle {
    pub(crate) fn new(request: ImageRequest, target: Target, purpose: Purpose) -> Self {
        let (progress, _) = watch::channel(Progress::default());
        let (outcome, _) = watch::channel(None);
        let seen = progress.clone();
        let log = BuildLog::observed(move |line| {
            seen.send_modify(|progress| progress.log_line = Some(line.to_owned()));
        });
        Self(Arc::new(Shared {
            id: BuildId::fresh(),
            request,
            target,
            purpose,
            started: SystemTime::now(),
            clock: Instant::now(),
            evaluated: OnceLock::new(),
            key: OnceLock::new(),
            log,
            progress,
            outcome,
        }))
    }

    /// The build's name in this process.
    pub fn id(&self) -> BuildId {
        self.0.id
    }

    /// Whether it was begun in the background, see [`Builder::ready`](crate::Builder::ready), and not
    /// because somebody asked. Somebody may have joined it since.
    pub fn is_refresh(&self) -> bool {
        self.0.purpose == Purpose::Refresh
    }

    /// What is being built, as the request that started it asked.
    pub fn request(&self) -> &ImageRequest {
        &self.0.request
    }

    /// Waits for the end of the build; at once where it has ended. May be dropped and called again.
    ///
    /// # Errors
    /// Why the build failed.
    pub async fn wait(&self) -> BuildResult {
        let mut outcome = self.0.outcome.subscribe();
        let outcome = outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => outcome.result.clone(),
            // The sender lives in `self`, so the channel is open.
            Ok(None) | Err(_) => Err(Arc::new(BuildError::internal("the build was given up"))),
        }
    }

    /// How the build ended, or `None` while it runs.
    pub fn result(&self) -> Option<BuildResult> {
        self.outcome().map(|outcome| outcome.result)
    }

    /// The build's progress: always the latest state, intermediate ones may be skipped.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.subscribe()
    }

    /// Lines of the log from now on.
    pub fn log_lines(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.log.subscribe()
    }

    /// The build's log.
    pub fn log(&self) -> &BuildLog {
        &self.0.log
    }

    /// What the build is, and how it stands now.
    pub fn summary(&self) -> BuildSummary {
        let outcome = self.outcome();
        let end = outcome
            .as_ref()
            .map_or_else(Instant::now, |outcome| outcome.at);
        let state = match outcome.map(|outcome| outcome.result) {
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
            elapsed: end.saturating_duration_since(self.0.clock),
            state,
        }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.0.target
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.0.outcome.borrow().clone()
    }

    /// Notes that the source is looked at from now on.
    pub(crate) fn evaluating(&self) {
        // Once in a build.
        let _ = self.0.evaluated.set(Instant::now());
    }

    /// When the evaluation began; of a build without one when it started.
    pub(crate) fn evaluated_at(&self) -> Instant {
        *self.0.evaluated.get().unwrap_or(&self.0.clock)
    }

    /// Notes the key under which the manifest cache has the image.
    pub(crate) fn found_key(&self, key: Digest) {
        // Once in a build.
        let _ = self.0.key.set(key);
    }

    /// The manifest cache's key of the image, once it is known.
    pub(crate) fn key(&self) -> Option<Digest> {
        self.0.key.get().copied()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.0.progress.send_modify(change);
    }

    pub(crate) fn finish(&self, result: BuildResult) {
        let phase = if result.is_ok() {
            Phase::Done
        } else {
            Phase::Failed
        };
        self.update(|progress| progress.phase = phase);
        self.0.outcome.send_replace(Some(Outcome {
            result,
            at: Instant::now(),
        }));
    }
}

/// A build as lists show it.
#[derive(Debug, Clone)]
pub struct BuildSummary {
    /// The build's name in this process.
    pub id: BuildId,
    /// Canonical image name.
    pub image: String,
    /// Tag it was asked for with.
    pub tag: String,
    /// When it started.
    pub started: SystemTime,
    /// How long it ran, or has been running.
    pub elapsed: Duration,
    /// How it stands.
    pub state: BuildState,
}

/// How a build stands.
#[derive(Debug, Clone)]
pub enum BuildState {
    /// It runs.
    Running(Phase),
    /// The image is there.
    Succeeded {
        /// Digest of the OCI manifest.
        digest: Digest,
        /// Compressed bytes of all layers.
        size: u64,
        /// Number of layers.
        layers: usize,
        /// Nothing had to be built: the image was found in the manifest cache.
        from_cache: bool,
    },
    /// It failed.
    Failed(Arc<BuildError>),
}
