//! Counters and histograms for Prometheus, in its text format, version 0.0.4.
//!
//! The module does not depend on the rest of the server: other modules count, and the handler of
//! `/metrics` passes what the builder reports.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nixery_builder::BuildResult;
use prometheus_client::encoding::EncodeLabelSet;
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

/// A label with its value.
type Label = [(&'static str, &'static str); 1];
type Histograms = Family<Label, Histogram, fn() -> Histogram>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u32,
}

/// Metrics of one process, from its start.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    built: Counter,
    cached: Counter,
    failed: Counter,
    failures: Family<Label, Counter>,
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
    requests: Family<RequestLabels, Counter>,
    durations: Histograms,
}

/// The metrics of garbage collections. Clones share their counts.
#[derive(Debug, Clone)]
pub struct GcMetrics {
    /// Collections that ended well.
    pub(crate) done: Counter,
    /// Collections that were skipped because another replica was collecting, or because the store
    /// was read-only.
    pub(crate) skipped: Counter,
    /// Collections that failed.
    pub(crate) failed: Counter,
    /// Images dropped.
    pub(crate) dropped: Counter,
    /// Blobs deleted.
    pub(crate) deleted: Counter,
    /// Bytes freed.
    pub(crate) freed: Counter,
    /// When the last one ended well, in Unix time; 0 for never.
    pub(crate) last_success: Gauge,
}

impl Metrics {
    /// Returns metrics that start at zero. `registry` may hold metrics of other modules already.
    pub(crate) fn new(mut registry: Registry) -> Self {
        let registry = &mut registry;
        let [built, cached, failed] = counters(
            registry,
            "nixery_builds",
            "Image requests that ended, by result",
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
        let help = "Stored blobs that were found damaged while they were served";
        let blobs_damaged = register(registry, "nixery_blobs_damaged", help);
        let gc = GcMetrics::registered(registry);
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
            requests,
            durations,
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
                    let labels = [("phase", phase.as_str())];
                    let phase = self.phases.get_or_create(&labels);
                    phase.observe(took.as_secs_f64());
                }
            }
            Err(error) => {
                self.failed.inc();
                let kind = ("kind", error.kind());
                self.failures.get_or_create(&[kind]).inc();
            }
        }
    }

    /// Counts an answer.
    pub(crate) fn count_request(&self, route: &'static str, status: u16, took: Duration) {
        let duration = self.durations.get_or_create(&[("route", route)]);
        duration.observe(took.as_secs_f64());
        let status = status.into();
        self.requests
            .get_or_create(&RequestLabels { route, status })
            .inc();
    }

    /// Returns the metrics of garbage collections.
    #[must_use]
    pub fn gc(&self) -> &GcMetrics {
        &self.gc
    }

    /// Counts bytes of bodies that were sent to connections.
    pub(crate) fn count_bytes(&self, bytes: u64) {
        self.bytes_served.inc_by(bytes);
    }

    /// Counts a blob for which the client was redirected to the store.
    pub(crate) fn count_redirected(&self) {
        self.blobs_redirected.inc();
    }

    /// Counts a blob, or a part of one, that is sent through this server.
    pub(crate) fn count_proxied(&self) {
        self.blobs_proxied.inc();
    }

    /// Formats the metrics for Prometheus, with what the builder reports of its builds and blobs.
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
            "Garbage collections, by result",
            "result",
            ["done", "skipped", "failed"],
        );
        let dropped = "Images dropped by collections";
        let deleted = "Blobs deleted by collections";
        let freed = "Bytes freed by collections";
        let last = "Unix time of the last successful collection; 0 if there was none";
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

/// Registers a metric that starts at zero.
pub(crate) fn register<M: Metric + Default + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a counter for each value of a label.
pub(crate) fn counters<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    let family: Family<Label, Counter> = register(registry, name, help);
    values.map(|value| family.get_or_create_owned(&[(label, value)]))
}

/// Registers durations by a label.
fn histograms(registry: &mut Registry, name: &str, help: &str) -> Histograms {
    let family = Histograms::new_with_constructor(|| Histogram::new(SECONDS));
    registry.register(name, help, family.clone());
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let metrics = Metrics::new(Registry::default());
        for status in [200, 200, 418] {
            metrics.count_request("blob", status, Duration::from_millis(2));
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
