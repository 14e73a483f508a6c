//! Checks whether the registry can work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nixery_builder::Builder;
use nixery_storage::error_chain;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// How long the result of a check is used, so that probes cost almost nothing.
const VALID_FOR: Duration = Duration::from_secs(10);
/// Time limit of a check: longer than a healthy store and Nix take, shorter than most probes wait.
const CHECK_TIMEOUT: Duration = Duration::from_secs(8);

/// Whether the registry can work, as far as it was checked.
#[derive(Debug, Default)]
pub struct Readiness {
    stopping: AtomicBool,
    last: Mutex<Option<(Instant, Vec<&'static str>)>>,
}

impl Readiness {
    /// Makes the registry not ready from now on, so that it gets no new work.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns why the registry cannot serve or build, or nothing if it can.
    ///
    /// The texts name no paths and quote no messages: the details are in the log.
    pub async fn problems(&self, builder: &Builder) -> Vec<&'static str> {
        if self.stopping.load(Ordering::Relaxed) {
            return vec!["the server is stopping"];
        }
        let mut last = self.last.lock().await;
        if let Some((at, problems)) = &*last
            && at.elapsed() < VALID_FOR
        {
            return problems.clone();
        }
        let (store, nix) = tokio::join!(check_store(builder), check_nix(builder));
        let problems: Vec<_> = store.into_iter().chain(nix).collect();
        *last = Some((Instant::now(), problems.clone()));
        problems
    }
}

async fn check_store(builder: &Builder) -> Option<&'static str> {
    match timeout(CHECK_TIMEOUT, builder.storage().check()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::warn!(error = %error_chain(&error), "the blob store does not work");
            Some("the blob store does not work")
        }
        Err(_) => {
            tracing::warn!(after = ?CHECK_TIMEOUT, "the blob store does not answer");
            Some("the blob store does not answer")
        }
    }
}

async fn check_nix(builder: &Builder) -> Option<&'static str> {
    let Ok(findings) = timeout(CHECK_TIMEOUT, builder.nix().preflight()).await else {
        tracing::warn!(after = ?CHECK_TIMEOUT, "Nix does not answer");
        return Some("Nix does not answer");
    };
    let fatal = findings.into_iter().find(|finding| finding.fatal)?;
    let (problem, remedy) = (fatal.problem, fatal.remedy);
    tracing::warn!(problem, remedy, "Nix does not work");
    Some("Nix does not work")
}
