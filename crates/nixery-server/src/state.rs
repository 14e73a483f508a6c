//! What every request handler shares.

use crate::config::HttpSettings;
use crate::health::Readiness;
use crate::metrics::Metrics;
use crate::traffic::Recorder;
use nixery_builder::{BuildHandle, BuildResult, Builder, Image, ImageRequest};
use std::sync::Arc;

/// The registry as its handlers see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    builder: Builder,
    settings: HttpSettings,
    metrics: Metrics,
    readiness: Readiness,
    recorder: Option<Recorder>,
}

fn from_cache(result: &BuildResult) -> bool {
    result.as_ref().is_ok_and(|image| image.stats.from_cache)
}

impl AppState {
    /// A registry over a builder.
    #[must_use]
    pub fn new(builder: Builder, settings: HttpSettings) -> Self {
        Self::recording(builder, settings, None)
    }

    /// The same, which records its pulls; [`record_forever`](crate::traffic::record_forever) stores them.
    #[must_use]
    pub fn recording(builder: Builder, settings: HttpSettings, recorder: Option<Recorder>) -> Self {
        Self(Arc::new(Inner {
            builder,
            settings,
            metrics: Metrics::default(),
            readiness: Readiness::default(),
            recorder,
        }))
    }

    /// The image that answers a request without a build, see [`Builder::ready`].
    pub async fn ready(&self, request: &ImageRequest) -> Option<Arc<Image>> {
        let ready = self.0.builder.ready(request).await?;
        self.0.metrics.count_ready();
        if let Some(refresh) = &ready.refresh {
            self.count(refresh);
        }
        Some(ready.image)
    }

    /// Starts or joins the build of an image.
    pub fn build(&self, request: ImageRequest) -> BuildHandle {
        let handle = self.0.builder.request(request);
        self.count(&handle);
        handle
    }

    /// Sees to it that a build is counted, once.
    fn count(&self, handle: &BuildHandle) {
        if self.0.metrics.is_new(handle.id()) {
            // Counted when it ends, by a task of its own: whoever asked may be gone by then.
            let (state, handle) = (self.clone(), handle.clone());
            tokio::spawn(async move {
                let result = handle.wait().await;
                // A look in the background that changed nothing answered nobody.
                if !(handle.is_refresh() && from_cache(&result)) {
                    let metrics = state.metrics();
                    metrics.count_build(&result, handle.summary().elapsed);
                }
            });
        }
    }

    /// The builder.
    #[must_use]
    pub fn builder(&self) -> &Builder {
        &self.0.builder
    }

    /// How the registry answers.
    #[must_use]
    pub fn settings(&self) -> &HttpSettings {
        &self.0.settings
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What records pulls, if they are recorded.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.0.recorder.as_ref()
    }

    /// Stores the pulls that are recorded and not stored yet.
    pub async fn store_recorded(&self) {
        if let Some(recorder) = self.recorder() {
            recorder.flush(&**self.builder().storage()).await;
        }
    }

    /// What is known about whether the registry can work.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }
}
