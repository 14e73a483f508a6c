//! The server's timer for the collection of garbage.

use crate::config::GcSettings;
use crate::metrics::Metrics;
use crate::state::AppState;
use nixery_lab::RETENTIONS;
use nixery_state::gc::{self, GcError, GcMode, GcPolicy, GcReport};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The pause before a collection differs by up to a tenth, so that replicas do not stay in step.
const JITTER: u32 = 10;

/// What collections did, from the start of the process.
#[derive(Debug, Default)]
pub struct GcMetrics {
    /// Collections that ran to their end.
    pub done: AtomicU64,
    /// Collections that were left to another replica.
    pub skipped: AtomicU64,
    /// Collections that failed.
    pub failed: AtomicU64,
    /// Images dropped.
    pub dropped: AtomicU64,
    /// Blobs deleted.
    pub deleted: AtomicU64,
    /// Bytes freed.
    pub freed: AtomicU64,
    /// When the last one ran to its end, in seconds of Unix time; 0 for never.
    pub last_success: AtomicU64,
}

/// Collects garbage again and again until `stop` is ready, and then lets other replicas; only waits where that is off.
pub async fn collect_until(
    state: AppState,
    settings: GcSettings,
    stop: impl Future<Output = ()> + Send,
) {
    let mut stop = std::pin::pin!(stop);
    let Some(interval) = settings.interval else {
        return stop.await;
    };
    // The first at any time within an interval: replicas start together.
    let mut pause = interval.mul_f64(draw());
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stop => return,
        }
        if !collect_once(&state, &settings.policy, &mut stop).await {
            return;
        }
        pause = interval + (interval / JITTER).mul_f64(draw());
    }
}

/// Whether it was not stopped.
async fn collect_once(
    state: &AppState,
    policy: &GcPolicy,
    stop: impl Future<Output = ()> + Send,
) -> bool {
    let storage = Arc::clone(state.builder().storage());
    let result = gc::collect_until(storage, policy, &RETENTIONS, GcMode::Sweep, |_| (), stop).await;
    let metrics = state.metrics().gc();
    metrics.count(&result);
    match result {
        Ok(report) => log(&report),
        Err(GcError::Stopped) => {
            tracing::info!("the collection of garbage was stopped; the next one goes on");
            return false;
        }
        Err(GcError::Busy) => {
            tracing::info!("garbage is not collected now: another replica is collecting it");
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(
                cause,
                "the collection of garbage ended early; the next one goes on: {error}"
            );
        }
    }
    true
}

fn log(report: &GcReport) {
    if report.newer_entries > 0 {
        tracing::warn!(
            entries = report.newer_entries,
            "a newer version of Nixery uses this store: no blob is deleted while its cache entries are there; collect garbage with that version"
        );
    }
    let (images, dropped) = (report.images, report.dropped_images());
    let (deleted, freed, later) = (report.deleted_blobs, report.freed_bytes, report.later_bytes);
    tracing::info!(
        images,
        dropped,
        deleted_blobs = deleted,
        freed_bytes = freed,
        later_bytes = later,
        forgotten = report.forgotten_deleted,
        "garbage collected"
    );
}

impl GcMetrics {
    fn count(&self, result: &Result<GcReport, GcError>) {
        let add = |counter: &AtomicU64, more| {
            counter.fetch_add(more, Ordering::Relaxed);
        };
        match result {
            Ok(report) => {
                add(&self.done, 1);
                add(&self.dropped, report.dropped_images());
                add(&self.deleted, report.deleted_blobs);
                add(&self.freed, report.freed_bytes);
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.as_ref().map_or(0, Duration::as_secs);
                self.last_success.store(now, Ordering::Relaxed);
            }
            Err(GcError::Busy) => add(&self.skipped, 1),
            Err(GcError::Stopped) => {}
            Err(_) => add(&self.failed, 1),
        }
    }
}

impl Metrics {
    /// Appends the families of the collection.
    pub(crate) fn render_gc(
        &self,
        mut family: impl FnMut(&str, &str, &str, Vec<(String, String)>),
    ) {
        let gc = self.gc();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let one = |counter| vec![(String::new(), get(counter))];
        let runs = vec![
            ("result=\"done\"".to_owned(), get(&gc.done)),
            ("result=\"skipped\"".to_owned(), get(&gc.skipped)),
            ("result=\"failed\"".to_owned(), get(&gc.failed)),
        ];
        family(
            "nixery_gc_runs_total",
            "counter",
            "Collections of garbage, by how they ended",
            runs,
        );
        let help = "Images dropped by collections";
        family(
            "nixery_gc_dropped_images_total",
            "counter",
            help,
            one(&gc.dropped),
        );
        let help = "Blobs deleted by collections";
        family(
            "nixery_gc_deleted_blobs_total",
            "counter",
            help,
            one(&gc.deleted),
        );
        let help = "Bytes freed by collections";
        family(
            "nixery_gc_freed_bytes_total",
            "counter",
            help,
            one(&gc.freed),
        );
        let help = "When the last collection ended well, in Unix time; 0 for never";
        family(
            "nixery_gc_last_success_timestamp_seconds",
            "gauge",
            help,
            one(&gc.last_success),
        );
    }
}

/// A number from 0 to 1 that replicas draw independently.
#[allow(clippy::cast_precision_loss)]
fn draw() -> f64 {
    RandomState::new().hash_one("gc") as f64 / u64::MAX as f64
}
