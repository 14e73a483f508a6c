//! Collects garbage at an interval.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

// Without the feature `lab`, recorded pulls and learned plans stay.
#[cfg(feature = "lab")]
use nixery_lab::RETENTIONS;
#[cfg(not(feature = "lab"))]
use nixery_state::RETENTIONS;
use nixery_state::WriteAccess;
use nixery_state::gc::{self, GcError, GcMode, GcPolicy, GcReport};
use nixery_storage::{Storage, error_chain};

use crate::config::GcSettings;
use crate::metrics::GcMetrics;

/// The pause before a collection varies by up to a tenth, so that replicas do not stay
/// synchronised.
const JITTER: u32 = 10;

/// Collects garbage at every interval until `stop` is ready. Without an interval it only waits.
/// Logs at first what will be collected.
pub async fn collect_until(
    storage: Arc<dyn Storage>,
    settings: GcSettings,
    metrics: GcMetrics,
    stop: impl Future<Output = ()> + Send,
) {
    let mut stop = std::pin::pin!(stop);
    tracing::info!("{}", settings.describe());
    let Some(interval) = settings.interval else {
        return stop.await;
    };
    // The first pause is random, as replicas start together.
    let mut pause = interval.mul_f64(fastrand::f64());
    let write_access = WriteAccess::new(Arc::clone(&storage));
    let mut was_read_only = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stop => return,
        }
        let is_read_only = write_access.is_read_only().await;
        if is_read_only {
            metrics.skipped.inc();
            if !was_read_only {
                tracing::info!("garbage is not collected while the blob store is read-only");
            }
        } else if !collect_once(&storage, &settings.policy, &metrics, &mut stop).await {
            return;
        }
        was_read_only = is_read_only;
        pause = interval + (interval / JITTER).mul_f64(fastrand::f64());
    }
}

/// Runs one collection; returns `false` if it was stopped.
async fn collect_once(
    storage: &Arc<dyn Storage>,
    policy: &GcPolicy,
    metrics: &GcMetrics,
    stop: impl Future<Output = ()> + Send,
) -> bool {
    let storage = Arc::clone(storage);
    match gc::collect_until(storage, policy, &RETENTIONS, GcMode::Sweep, |_| (), stop).await {
        Ok(report) => {
            count(metrics, &report);
            log(&report);
        }
        Err(GcError::Stopped) => {
            tracing::info!("the garbage collection was stopped; the next one continues");
            return false;
        }
        Err(GcError::Busy) => {
            metrics.skipped.inc();
            tracing::info!("skipped the garbage collection: another server is collecting");
        }
        Err(error) => {
            metrics.failed.inc();
            let error = error_chain(&error);
            tracing::warn!(
                error,
                "the garbage collection failed; the next one continues"
            );
        }
    }
    true
}

fn log(report: &GcReport) {
    if report.newer_entries > 0 {
        tracing::warn!(
            entries = report.newer_entries,
            "no blob was deleted: a newer version of Nixery has written cache entries to this store. Fix: collect garbage with that version"
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

fn count(metrics: &GcMetrics, report: &GcReport) {
    metrics.done.inc();
    metrics.dropped.inc_by(report.dropped_images());
    metrics.deleted.inc_by(report.deleted_blobs);
    metrics.freed.inc_by(report.freed_bytes);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.as_ref().map_or(0, Duration::as_secs);
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    metrics.last_success.set(seconds);
}
