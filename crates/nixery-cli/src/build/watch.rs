//! Showing a build while it runs.

use nixery_builder::{BuildHandle, Phase, Progress};

use crate::image::doing;
use crate::progress::{Reporter, Unit, seconds};

/// Shows the build's progress until it has ended.
pub(super) async fn watch(build: &BuildHandle, reporter: &mut Reporter, verbose: bool) {
    let mut progress = build.progress();
    let mut lines = build.log_lines();
    let mut shown = None;
    let ended = build.wait();
    tokio::pin!(ended);
    loop {
        let now = progress.borrow_and_update().clone();
        if shown != Some(now.phase) {
            shown = Some(now.phase);
            announce(build, &now, reporter);
        }
        show(&now, reporter);
        tokio::select! {
            biased;
            // Lines that came too fast are left out; the log has them all.
            line = lines.recv(), if verbose => match line {
                Ok(line) => reporter.line(&line),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
            _ = &mut ended => return,
            changed = progress.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Where there is no bar, each phase has a line when it begins.
fn announce(build: &BuildHandle, now: &Progress, reporter: &mut Reporter) {
    let doing = doing(now.phase);
    if reporter.has_bar() || doing.is_empty() {
        return;
    }
    let elapsed = seconds(build.summary().elapsed);
    reporter.line(&format!("{doing} ({elapsed})"));
}

fn show(now: &Progress, reporter: &mut Reporter) {
    let doing = doing(now.phase);
    if matches!(now.phase, Phase::Pack | Phase::Store) && now.bytes_total > 0 {
        let layers = format!("{}/{} layers", now.layers_done, now.layers_total);
        reporter.at(Unit::Bytes, doing, now.bytes_done, now.bytes_total, &layers);
    } else {
        let line = now.log_line.as_deref().unwrap_or_default();
        reporter.at(Unit::Spinner, doing, 0, 0, line);
    }
}
