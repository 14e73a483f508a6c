//! Counters in the text format of Prometheus, version 0.0.4.

use crate::collection::GcMetrics;
use crate::learning::PlanMetrics;
use crate::state::AppState;
use nixery_builder::{BuildId, BuildResult};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Media type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";
/// Builds remembered as counted: more than can run or be joined at once.
const REMEMBERED: usize = 4096;

/// Counters of one process, from its start.
#[derive(Debug, Default)]
pub struct Metrics {
    built: AtomicU64,
    cached: AtomicU64,
    failures: Mutex<BTreeMap<&'static str, u64>>,
    build_milliseconds: AtomicU64,
    layers_packed: AtomicU64,
    layers_cached: AtomicU64,
    bytes_served: AtomicU64,
    blobs_redirected: AtomicU64,
    blobs_proxied: AtomicU64,
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    gc: GcMetrics,
    plans: PlanMetrics,
    seen: Mutex<(HashSet<BuildId>, VecDeque<BuildId>)>,
}

impl Metrics {
    /// Whether this build was not seen before: several requests join one build.
    pub fn is_new(&self, id: BuildId) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (ids, order) = &mut *seen;
        if !ids.insert(id) {
            return false;
        }
        order.push_back(id);
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            ids.remove(&oldest);
        }
        true
    }

    /// Counts an image that was answered without a build.
    pub fn count_ready(&self) {
        add(&self.cached, 1);
    }

    /// Counts a build that ended.
    pub fn count_build(&self, result: &BuildResult, took: Duration) {
        match result {
            Ok(image) if image.stats.from_cache => {
                self.cached.fetch_add(1, Ordering::Relaxed);
            }
            Ok(image) => {
                self.built.fetch_add(1, Ordering::Relaxed);
                add(&self.layers_packed, image.stats.layers_packed as u64);
                add(&self.layers_cached, image.stats.layers_cached as u64);
                let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                add(&self.build_milliseconds, milliseconds);
            }
            Err(error) => {
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                *failures.entry(error.kind()).or_default() += 1;
            }
        }
    }

    /// Counts an answer by the kind of its route.
    pub fn count_request(&self, route: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
    }

    /// What collections of garbage did.
    pub fn gc(&self) -> &GcMetrics {
        &self.gc
    }

    /// What the learning of plans did.
    pub fn plans(&self) -> &PlanMetrics {
        &self.plans
    }

    /// Counts bytes of bodies that were handed to connections.
    pub fn count_bytes(&self, bytes: u64) {
        add(&self.bytes_served, bytes);
    }

    /// Counts a blob that the client was sent to the store for.
    pub fn count_redirected(&self) {
        add(&self.blobs_redirected, 1);
    }

    /// Counts a blob, or a part of one, that passes through this server.
    pub fn count_proxied(&self) {
        add(&self.blobs_proxied, 1);
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// The counters as Prometheus reads them.
#[must_use]
pub(crate) fn render(state: &AppState) -> String {
    let metrics = state.metrics();
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
    let mut text = String::new();

    let failures = metrics
        .failures
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let mut builds = vec![
        ("result=\"built\"".to_owned(), get(&metrics.built)),
        ("result=\"cached\"".to_owned(), get(&metrics.cached)),
    ];
    builds.push((
        "result=\"failed\"".to_owned(),
        failures.values().sum::<u64>().to_string(),
    ));
    family(
        &mut text,
        "nixery_builds_total",
        "counter",
        "Image requests that ended, by how",
        builds,
    );
    let kinds = failures
        .iter()
        .map(|(kind, count)| (format!("kind=\"{kind}\""), count.to_string()));
    family(
        &mut text,
        "nixery_build_failures_total",
        "counter",
        "Failed builds, by kind",
        kinds,
    );
    #[allow(clippy::cast_precision_loss)]
    let seconds = metrics.build_milliseconds.load(Ordering::Relaxed) as f64 / 1000.0;
    let seconds = [(String::new(), seconds.to_string())];
    family(
        &mut text,
        "nixery_build_seconds_total",
        "counter",
        "Time of builds that were not cached",
        seconds,
    );

    let running = [(String::new(), state.builder().running().to_string())];
    family(
        &mut text,
        "nixery_builds_running",
        "gauge",
        "Builds that run or wait for their turn",
        running,
    );

    let layers = [
        ("source=\"packed\"".to_owned(), get(&metrics.layers_packed)),
        ("source=\"cached\"".to_owned(), get(&metrics.layers_cached)),
    ];
    family(
        &mut text,
        "nixery_layers_total",
        "counter",
        "Layers of builds, by whether they had to be packed",
        layers,
    );
    let bytes = [(String::new(), get(&metrics.bytes_served))];
    family(
        &mut text,
        "nixery_served_bytes_total",
        "counter",
        "Bytes of response bodies",
        bytes,
    );
    let blobs = [
        (
            "delivery=\"redirected\"".to_owned(),
            get(&metrics.blobs_redirected),
        ),
        (
            "delivery=\"proxied\"".to_owned(),
            get(&metrics.blobs_proxied),
        ),
    ];
    family(
        &mut text,
        "nixery_blobs_total",
        "counter",
        "Blobs asked for, by the way they took",
        blobs,
    );
    let damaged = [(String::new(), state.builder().damaged_blobs().to_string())];
    family(
        &mut text,
        "nixery_blobs_damaged_total",
        "counter",
        "Stored blobs found damaged while they were served",
        damaged,
    );

    metrics.render_gc(|name, kind, help, samples| {
        family(&mut text, name, kind, help, samples);
    });
    metrics.render_plans(|name, kind, help, samples| {
        family(&mut text, name, kind, help, samples);
    });

    if let Some(recorder) = state.recorder() {
        recorder.render(|name, kind, help, samples| {
            family(&mut text, name, kind, help, samples);
        });
    }

    let requests = metrics
        .requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let requests = requests.iter().map(|((route, status), count)| {
        (
            format!("route=\"{route}\",status=\"{status}\""),
            count.to_string(),
        )
    });
    family(
        &mut text,
        "nixery_http_requests_total",
        "counter",
        "Answers, by route and status",
        requests,
    );
    text
}

/// Appends one metric family. Label values here are words of this program, which need no escaping.
fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, String)>,
) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let labels = if labels.is_empty() {
            labels
        } else {
            format!("{{{labels}}}")
        };
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}
