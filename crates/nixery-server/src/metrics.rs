//! Counters and histograms for Prometheus, in its text format, version 0.0.4.
//!
//! The module knows nothing of the rest of the server: others count, and the handler of `/metrics`
//! hands in what is read elsewhere. Label sets of the way from a request to its answer are resolved
//! once.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nixery_builder::BuildResult;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Media type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Upper bounds of the buckets of all durations, in seconds: from an answer out of memory to a long
/// build. The longest wait for a build in one request, 25 s, has a bound right above it.
const SECONDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    180.0, 600.0,
];

/// Statuses of nearly all answers, whose counters are looked up once.
const USUAL_STATUSES: [u16; 4] = [200, 206, 304, 307];

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// The kind of a request, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RouteLabel {
    Start,
    Build,
    Asset,
    Live,
    Ready,
    Metrics,
    Version,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Unknown,
}

impl RouteLabel {
    /// All of them, in the order of their numbers.
    const WORDS: [&str; 12] = [
        "start",
        "build",
        "asset",
        "live",
        "ready",
        "metrics",
        "version",
        "manifest",
        "blob",
        "tags",
        "referrers",
        "unknown",
    ];
}

/// Metrics of one process, from its start.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    built: Counter,
    cached: Counter,
    failed: Counter,
    failures: Family<Labels<1>, Counter>,
    build_seconds: Counter<f64, AtomicU64>,
    phases: Histograms,
    builds_running: Gauge,
    layers_packed: Counter,
    layers_cached: Counter,
    bytes_served: Counter,
    blobs_redirected: Counter,
    blobs_proxied: Counter,
    blobs_damaged: Counter,
    gc: GcMetrics,
    plans: PlanMetrics,
    requests: Family<Labels<2>, Counter>,
    durations: Histograms,
    routes: [RouteMetrics; RouteLabel::WORDS.len()],
}

/// What collections of garbage did. Clones count together.
#[derive(Debug, Clone)]
pub struct GcMetrics {
    /// Collections that ended.
    pub done: Counter,
    /// Collections that were left to another replica.
    pub skipped: Counter,
    /// Collections that failed.
    pub failed: Counter,
    /// Images dropped.
    pub dropped: Counter,
    /// Blobs deleted.
    pub deleted: Counter,
    /// Bytes freed.
    pub freed: Counter,
    /// When the last one ended, in seconds of Unix time; 0 for never.
    pub last_success: Gauge,
}

/// What the learning of layer plans did. Clones count together.
#[derive(Debug, Clone)]
pub struct PlanMetrics {
    /// Plans that were made.
    pub made: Counter,
    /// Nights in which the plan stayed, or there was too little to learn from.
    pub kept: Counter,
    /// Nights in which another server learned.
    pub skipped: Counter,
    /// Failures.
    pub failed: Counter,
    /// How often this server changed to another plan.
    pub changes: Counter,
}

/// What the recording of pulls did. Clones count together.
#[derive(Debug, Clone)]
pub struct TrafficMetrics {
    pulls: Family<Labels<1>, Counter>,
    /// Pulls that were stored.
    pub stored: Counter,
    /// Pulls that were dropped because there was no room, or the clock was not set.
    pub dropped: Counter,
    /// Pulls of an unknown image.
    pub unknown: Counter,
    /// Batches that could not be stored.
    pub failed_batches: Counter,
}

/// What is counted for each kind of request, once there was one.
#[derive(Debug, Default)]
struct RouteMetrics {
    duration: OnceLock<Histogram>,
    usual: [OnceLock<Counter>; USUAL_STATUSES.len()],
}

impl Metrics {
    /// Metrics that start at zero; those of recorded pulls are there only where pulls are recorded.
    #[must_use]
    pub fn new(traffic: Option<&TrafficMetrics>) -> Self {
        let registry = &mut Registry::default();
        let [built, cached, failed] = counters(
            registry,
            "nixery_builds",
            "Image requests that ended, by how",
            "result",
            ["built", "cached", "failed"],
        );
        let failures = register(registry, "nixery_build_failures", "Failed builds, by kind");
        let help = "Time of builds that were not cached";
        let build_seconds = register(registry, "nixery_build_seconds", help);
        let help = "Time of the phases of builds that were not cached";
        let phases = histograms(registry, "nixery_build_phase_duration_seconds", help);
        let help = "Builds that run or are queued";
        let builds_running = register(registry, "nixery_builds_running", help);
        let [layers_packed, layers_cached] = counters(
            registry,
            "nixery_layers",
            "Layers of builds, by whether they had to be packed",
            "source",
            ["packed", "cached"],
        );
        let help = "Bytes of response bodies";
        let bytes_served = register(registry, "nixery_served_bytes", help);
        let [blobs_redirected, blobs_proxied] = counters(
            registry,
            "nixery_blobs",
            "Blobs requested, by how they were delivered",
            "delivery",
            ["redirected", "proxied"],
        );
        let help = "Stored blobs found damaged while they were served";
        let blobs_damaged = register(registry, "nixery_blobs_damaged", help);
        let gc = GcMetrics::registered(registry);
        let plans = PlanMetrics::registered(registry);
        if let Some(traffic) = traffic {
            traffic.register(registry);
        }
        let help = "Answers, by route and status";
        let requests = register(registry, "nixery_http_requests", help);
        let help = "Time from the head of a request to the last byte of its answer, by route";
        let durations = histograms(registry, "nixery_http_request_duration_seconds", help);
        Self {
            registry: std::mem::take(registry),
            built,
            cached,
            failed,
            failures,
            build_seconds,
            phases,
            builds_running,
            layers_packed,
            layers_cached,
            bytes_served,
            blobs_redirected,
            blobs_proxied,
            blobs_damaged,
            gc,
            plans,
            requests,
            durations,
            routes: Default::default(),
        }
    }

    /// Counts an image that was answered without a build.
    pub(crate) fn count_ready(&self) {
        self.cached.inc();
    }

    /// Counts a build that ended.
    pub(crate) fn count_build(&self, result: &BuildResult, took: Duration) {
        match result {
            Ok(image) if image.stats.from_cache => {
                self.cached.inc();
            }
            Ok(image) => {
                self.built.inc();
                self.layers_packed.inc_by(image.stats.layers_packed as u64);
                self.layers_cached.inc_by(image.stats.layers_cached as u64);
                self.build_seconds.inc_by(took.as_secs_f64());
                for (phase, took) in &image.stats.phases {
                    let labels = [("phase", phase.as_str().into())];
                    let phase = self.phases.get_or_create(&labels);
                    phase.observe(took.as_secs_f64());
                }
            }
            Err(error) => {
                self.failed.inc();
                let kind = [("kind", error.kind().into())];
                self.failures.get_or_create(&kind).inc();
            }
        }
    }

    /// Counts an answer.
    pub(crate) fn count_request(&self, route: RouteLabel, status: u16, took: Duration) {
        let metrics = &self.routes[route as usize];
        let label = || ("route", RouteLabel::WORDS[route as usize].into());
        let duration = || self.durations.get_or_create_owned(&[label()]);
        let duration = metrics.duration.get_or_init(duration);
        duration.observe(took.as_secs_f64());
        let counter = || {
            let status = ("status", status.to_string().into());
            self.requests.get_or_create_owned(&[label(), status])
        };
        match USUAL_STATUSES.iter().position(|usual| *usual == status) {
            Some(usual) => metrics.usual[usual].get_or_init(counter).inc(),
            None => counter().inc(),
        };
    }

    /// What collections of garbage did.
    #[must_use]
    pub fn gc(&self) -> &GcMetrics {
        &self.gc
    }

    /// What the learning of plans did.
    #[must_use]
    pub fn plans(&self) -> &PlanMetrics {
        &self.plans
    }

    /// Counts bytes of bodies that were handed to connections.
    pub(crate) fn count_bytes(&self, bytes: u64) {
        self.bytes_served.inc_by(bytes);
    }

    /// Counts a blob that the client was sent to the store for.
    pub(crate) fn count_redirected(&self) {
        self.blobs_redirected.inc();
    }

    /// Counts a blob, or a part of one, that is sent through this server.
    pub(crate) fn count_proxied(&self) {
        self.blobs_proxied.inc();
    }

    /// The metrics as Prometheus reads them, with what the builder says of its builds and blobs.
    #[must_use]
    pub(crate) fn render(&self, builds_running: usize, blobs_damaged: u64) -> String {
        let running = i64::try_from(builds_running).unwrap_or(i64::MAX);
        self.builds_running.set(running);
        let damaged = self.blobs_damaged.inner();
        damaged.store(blobs_damaged, Ordering::Relaxed);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl GcMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let [done, skipped, failed] = counters(
            registry,
            "nixery_gc_runs",
            "Collections of garbage, by how they ended",
            "result",
            ["done", "skipped", "failed"],
        );
        let dropped = "Images dropped by collections";
        let deleted = "Blobs deleted by collections";
        let freed = "Bytes freed by collections";
        let last = "When the last collection ended well, in Unix time; 0 for never";
        Self {
            done,
            skipped,
            failed,
            dropped: register(registry, "nixery_gc_dropped_images", dropped),
            deleted: register(registry, "nixery_gc_deleted_blobs", deleted),
            freed: register(registry, "nixery_gc_freed_bytes", freed),
            last_success: register(registry, "nixery_gc_last_success_timestamp_seconds", last),
        }
    }
}

impl PlanMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let [made, kept, skipped, failed] = counters(
            registry,
            "nixery_plan_learning",
            "Nightly attempts to learn a layer plan, by how they ended",
            "result",
            ["made", "kept", "skipped", "failed"],
        );
        let help = "Learned layer plans that this server changed to after its start";
        Self {
            made,
            kept,
            skipped,
            failed,
            changes: register(registry, "nixery_plan_changes", help),
        }
    }
}

impl TrafficMetrics {
    fn register(&self, registry: &mut Registry) {
        let help = "Pulls that were recorded and stored, dropped because there was no room or no set clock, or of an unknown image";
        registry.register("nixery_traffic_pulls", help, self.pulls.clone());
        let help = "Times that recorded pulls could not be stored";
        let failures = self.failed_batches.clone();
        registry.register("nixery_traffic_store_failures", help, failures);
    }
}

impl Default for TrafficMetrics {
    fn default() -> Self {
        let pulls = Family::default();
        let [stored, dropped, unknown] =
            resolved(&pulls, "result", ["stored", "dropped", "unknown"]);
        Self {
            pulls,
            stored,
            dropped,
            unknown,
            failed_batches: Counter::default(),
        }
    }
}

/// Registers a metric that starts at zero.
fn register<M: Metric + Default + Clone>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a counter for each value of one label.
fn counters<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    resolved(&register(registry, name, help), label, values)
}

fn resolved<const N: usize>(
    family: &Family<Labels<1>, Counter>,
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    values.map(|value| family.get_or_create_owned(&[(label, value.into())]))
}

/// Registers durations by one label.
fn histograms(registry: &mut Registry, name: &str, help: &str) -> Histograms {
    let family = Histograms::new_with_constructor(|| Histogram::new(SECONDS));
    registry.register(name, help, family.clone());
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_has_its_word() {
        let words = RouteLabel::WORDS;
        assert_eq!(words[RouteLabel::Unknown as usize], "unknown");
        for label in [RouteLabel::Start, RouteLabel::Manifest, RouteLabel::Tags] {
            assert_eq!(words[label as usize], format!("{label:?}").to_lowercase());
        }
    }

    #[test]
    fn usual_and_other_statuses_are_counted() {
        let metrics = Metrics::new(None);
        for status in [200, 200, 418] {
            metrics.count_request(RouteLabel::Blob, status, Duration::from_millis(2));
        }
        let text = metrics.render(3, 1);
        for line in [
            "# TYPE nixery_http_requests_total counter\n",
            "nixery_http_requests_total{route=\"blob\",status=\"200\"} 2\n",
            "nixery_http_requests_total{route=\"blob\",status=\"418\"} 1\n",
            "nixery_http_request_duration_seconds_count{route=\"blob\"} 3\n",
            "nixery_http_request_duration_seconds_bucket{route=\"blob\",le=\"0.0025\"} 3\n",
            "nixery_builds_running 3\n",
            "nixery_blobs_damaged_total 1\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("nixery_traffic"), "{text}");
    }
}
