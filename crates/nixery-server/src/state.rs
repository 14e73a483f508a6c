//! The state that every request handler shares.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use nixery_builder::{BuildHandle, BuildId, BuildResult, Builder, Image, ImageRequest};

use crate::config::HttpSettings;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::traffic::Recorder;

/// Builds remembered as counted: more than can run or be joined at once.
const MOST_COUNTED: usize = 4096;

/// The registry as its handlers see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    builder: Builder,
    settings: HttpSettings,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    recorder: Option<Arc<Recorder>>,
    counted: Mutex<CountedBuilds>,
}

/// The last builds that were counted: several requests join one build.
#[derive(Debug, Default)]
struct CountedBuilds {
    ids: HashSet<BuildId>,
    order: VecDeque<BuildId>,
}

impl CountedBuilds {
    /// Whether this build was not counted yet.
    fn insert(&mut self, id: BuildId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > MOST_COUNTED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

fn from_cache(result: &BuildResult) -> bool {
    result.as_ref().is_ok_and(|image| image.stats.from_cache)
}

impl AppState {
    /// Returns a registry over a builder.
    #[must_use]
    pub fn new(builder: Builder, settings: HttpSettings) -> Self {
        Self::recording(builder, settings, None)
    }

    /// Returns a registry that records its pulls;
    /// [`record_forever`](crate::traffic::record_forever) stores them.
    #[must_use]
    pub fn recording(builder: Builder, settings: HttpSettings, recorder: Option<Recorder>) -> Self {
        Self(Arc::new(Inner {
            builder,
            settings,
            metrics: Arc::new(Metrics::new(recorder.as_ref().map(Recorder::metrics))),
            readiness: Readiness::default(),
            recorder: recorder.map(Arc::new),
            counted: Mutex::default(),
        }))
    }

    /// Returns the image that answers a request without a build, see [`Builder::warm_image`].
    pub async fn ready(&self, request: &ImageRequest) -> Option<Arc<Image>> {
        let ready = self.0.builder.warm_image(request).await?;
        self.0.metrics.count_ready();
        if let Some(refresh) = &ready.refresh {
            self.count(refresh);
        }
        Some(ready.image)
    }

    /// Starts or joins the build of an image.
    pub fn build(&self, request: ImageRequest) -> BuildHandle {
        let handle = self.0.builder.start(request);
        self.count(&handle);
        handle
    }

    /// Counts a build when it ends, once.
    fn count(&self, handle: &BuildHandle) {
        let counted = &self.0.counted;
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if !counted.insert(handle.id()) {
            return;
        }
        // In a task of its own: the request may be gone when the build ends.
        let (metrics, handle) = (Arc::clone(&self.0.metrics), handle.clone());
        tokio::spawn(async move {
            let result = handle.wait().await;
            // A refresh in the background that found the same image answered no request.
            if !(handle.is_refresh() && from_cache(&result)) {
                metrics.count_build(&result, handle.summary().elapsed);
            }
        });
    }

    /// The builder.
    #[must_use]
    pub fn builder(&self) -> &Builder {
        &self.0.builder
    }

    /// The HTTP settings.
    #[must_use]
    pub fn settings(&self) -> &HttpSettings {
        &self.0.settings
    }

    /// The metrics of this registry.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// The recorder of pulls, if they are recorded.
    #[must_use]
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.0.recorder.as_ref()
    }

    /// Stores the recorded pulls that are not stored yet.
    pub async fn store_recorded(&self) {
        if let Some(recorder) = self.recorder() {
            recorder.flush(&**self.builder().storage()).await;
        }
    }

    /// Whether the registry can work.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }
}
