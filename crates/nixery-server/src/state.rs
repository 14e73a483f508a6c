//! The state that every request handler shares.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use nixery_builder::{
    BuildError, BuildHandle, BuildId, BuildResult, Builder, ClientId, Image, ImageRequest,
};
use prometheus_client::registry::Registry;

use crate::access::{Access, Caller};
use crate::config::HttpSettings;
use crate::downloads::Downloads;
use crate::long_build::HeldRequests;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
#[cfg(feature = "lab")]
use crate::{config::Salt, learning::PlanMetrics, traffic::Recorder};

/// Limit of builds that are remembered as counted: more than can run or be joined at once.
const MAX_COUNTED: usize = 4096;

/// The registry as its handlers see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    builder: Builder,
    settings: HttpSettings,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    downloads: Downloads,
    held: HeldRequests,
    access: Access,
    /// The last builds that were counted: several requests join one build.
    counted: Mutex<VecDeque<BuildId>>,
    #[cfg(feature = "lab")]
    plans: PlanMetrics,
    #[cfg(feature = "lab")]
    recorder: Option<Arc<Recorder>>,
}

fn from_cache(result: &BuildResult) -> bool {
    result.as_ref().is_ok_and(|image| image.stats.from_cache)
}

impl Inner {
    /// Returns the state without a recorder; `registry` may hold metrics already.
    #[cfg_attr(not(feature = "lab"), expect(unused_mut))]
    fn new(builder: Builder, settings: HttpSettings, mut registry: Registry) -> Self {
        let downloads = Downloads::new(settings.max_downloads, settings.max_downloads_per_client);
        Self {
            builder,
            settings,
            downloads,
            held: HeldRequests::default(),
            access: Access::open(),
            readiness: Readiness::default(),
            counted: Mutex::default(),
            #[cfg(feature = "lab")]
            plans: PlanMetrics::registered(&mut registry),
            #[cfg(feature = "lab")]
            recorder: None,
            metrics: Arc::new(Metrics::new(registry)),
        }
    }
}

impl AppState {
    /// Returns a registry over a builder.
    #[must_use]
    pub fn new(builder: Builder, settings: HttpSettings) -> Self {
        Self(Arc::new(Inner::new(builder, settings, Registry::default())))
    }

    /// Returns a registry that records its pulls, with fingerprints made with `salt`;
    /// [`record_forever`](crate::traffic::record_forever) stores them.
    #[cfg(feature = "lab")]
    #[must_use]
    pub fn recording(builder: Builder, settings: HttpSettings, salt: Salt) -> Self {
        let mut registry = Registry::default();
        let recorder = Recorder::new(salt, &mut registry);
        let mut inner = Inner::new(builder, settings, registry);
        inner.recorder = Some(Arc::new(recorder));
        Self(Arc::new(inner))
    }

    /// Limits who may pull what.
    ///
    /// # Panics
    /// The registry was cloned before.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        let mut inner = Arc::into_inner(self.0).expect("the registry is not in use yet");
        inner.access = access;
        Self(Arc::new(inner))
    }

    /// Returns the image that answers a request without a build, see [`Builder::warm_image`].
    ///
    /// # Errors
    /// The tag means nothing, or asserts a version that the package does not have.
    pub async fn ready(&self, request: &ImageRequest) -> Result<Option<Arc<Image>>, BuildError> {
        let Some(ready) = self.0.builder.warm_image(request).await? else {
            return Ok(None);
        };
        self.0.metrics.count_ready();
        if let Some(refresh) = &ready.refresh {
            self.count(refresh);
        }
        Ok(Some(ready.image))
    }

    /// Starts or joins the build of an image that a client requests.
    pub fn build(&self, request: ImageRequest, client: ClientId) -> BuildHandle {
        let handle = self.0.builder.start_for(request, client);
        self.count(&handle);
        handle
    }

    /// Counts a build when it ends, once.
    fn count(&self, handle: &BuildHandle) {
        let counted = &self.0.counted;
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        let id = handle.id();
        // The newest first: it is the most likely one.
        if counted.iter().rev().any(|other| *other == id) {
            return;
        }
        counted.push_back(id);
        if counted.len() > MAX_COUNTED {
            counted.pop_front();
        }
        drop(counted);
        // In a task of its own: the request may be gone when the build ends.
        let (metrics, handle) = (Arc::clone(&self.0.metrics), handle.without_assertion());
        tokio::spawn(async move {
            let result = handle.wait().await;
            // A refresh in the background that found the same image answered no request.
            if !(handle.is_refresh() && from_cache(&result)) {
                metrics.count_build(&result, handle.summary().elapsed);
            }
        });
    }

    /// Returns the builder.
    #[must_use]
    pub fn builder(&self) -> &Builder {
        &self.0.builder
    }

    /// Returns the HTTP settings.
    #[must_use]
    pub fn settings(&self) -> &HttpSettings {
        &self.0.settings
    }

    /// Returns the metrics of this registry.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Returns the blobs that are being sent.
    pub(crate) fn downloads(&self) -> &Downloads {
        &self.0.downloads
    }

    /// Returns who may pull what.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    /// Whether a caller may see the log of a build: one who may pull the image that was requested
    /// first, or who joined the build with the request `joined`.
    pub(crate) fn may_see_log(
        &self,
        caller: &Caller<'_>,
        build: &BuildHandle,
        joined: &ImageRequest,
    ) -> bool {
        let may_see = |request: &ImageRequest| caller.may_see(&request.name, &request.tag);
        may_see(build.request()) || (self.builder().is_build_of(build, joined) && may_see(joined))
    }

    /// Returns the requests that wait for images.
    pub(crate) fn held(&self) -> &HeldRequests {
        &self.0.held
    }

    /// Returns the recorder of pulls, if they are recorded.
    #[cfg(feature = "lab")]
    #[must_use]
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.0.recorder.as_ref()
    }

    /// Returns the metrics of learning plans.
    #[cfg(feature = "lab")]
    #[must_use]
    pub fn plans(&self) -> &PlanMetrics {
        &self.0.plans
    }

    /// Stores the recorded pulls that are not stored yet.
    pub async fn store_recorded(&self) {
        #[cfg(feature = "lab")]
        if let Some(recorder) = self.recorder() {
            recorder.flush(&**self.builder().storage()).await;
        }
    }

    /// Returns the readiness of this registry.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }
}
