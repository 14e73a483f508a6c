//! Reports the progress of a build.

use nixery_builder::{BuildHandle, Phase, Progress};
use tokio::sync::broadcast::error::RecvError;

use crate::image::describe;
use crate::progress::{Reporter, Unit, seconds};

/// Reports the build's progress until it ends.
pub(super) async fn watch(build: &BuildHandle, reporter: &Reporter, verbose: bool) {
    let mut progress = build.progress();
    let mut lines = build.log_lines();
    let mut shown = None;
    let ended = build.wait();
    tokio::pin!(ended);
    loop {
        let now = progress.borrow_and_update().clone();
        if shown != Some(now.phase) {
            shown = Some(now.phase);
            let description = describe(now.phase);
            if !reporter.has_bar() && !description.is_empty() {
                let elapsed = seconds(build.summary().elapsed);
                reporter.line(&format!("{description} ({elapsed})"));
            }
        }
        report(&now, reporter);
        tokio::select! {
            biased;
            // Lines that arrive too fast are left out here. The log has them all.
            line = lines.recv(), if verbose => match line {
                Ok(line) => reporter.line(&line),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = &mut ended => return,
            changed = progress.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Reports how far a phase is.
fn report(now: &Progress, reporter: &Reporter) {
    let description = describe(now.phase);
    if matches!(now.phase, Phase::Pack | Phase::Store) && now.bytes_total > 0 {
        let layers = format!("{}/{} layers", now.layers_done, now.layers_total);
        let (done, total) = (now.bytes_done, now.bytes_total);
        reporter.at(Unit::Bytes, description, done, total, &layers);
    } else {
        let line = now.log_line.as_deref().unwrap_or_default();
        reporter.at(Unit::Spinner, description, 0, 0, line);
    }
}
