//! Learns a cluster plan at night, and changes to a new plan when the store has one.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nixery_builder::Builder;
use nixery_core::{Clustered, LayerStrategy};
use nixery_lab::learned::{self, LearnError, LearnOutcome, PlanPointer};
use nixery_manifest::Digest;
use nixery_storage::{Storage, error_chain};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::config::setup::log_plan;
use crate::metrics::{counters, register};

/// Time between two checks for another plan; meanwhile replicas may use different plans. It varies
/// by up to a tenth, so that replicas do not stay synchronised.
const CHECK_INTERVAL: Duration = Duration::from_secs(5 * 60);
const JITTER: u32 = 10;

/// The metrics of learning plans. Clones share their counts.
#[derive(Debug, Clone)]
pub struct PlanMetrics {
    made: Counter,
    /// Nights in which the plan stayed, or there was too little to learn from.
    kept: Counter,
    /// Nights in which another server learned.
    skipped: Counter,
    failed: Counter,
    /// How often this server changed to another plan.
    changes: Counter,
}

impl PlanMetrics {
    pub(crate) fn registered(registry: &mut Registry) -> Self {
        let [made, kept, skipped, failed] = counters(
            registry,
            "nixery_plan_learning",
            "Nightly attempts to learn a cluster plan, by result",
            "result",
            ["made", "kept", "skipped", "failed"],
        );
        let help = "Learned cluster plans that this server changed to after its start";
        Self {
            made,
            kept,
            skipped,
            failed,
            changes: register(registry, "nixery_plan_changes", help),
        }
    }
}

/// Uses the plan that the servers of the store have learned, whenever it changes. In the hour
/// `hour` (UTC) of each day, learns a plan unless another server does. Runs until it is dropped,
/// which is harmless at any moment.
pub async fn learn_forever(
    builder: Builder,
    metrics: PlanMetrics,
    hour: u8,
    clock: impl Fn() -> SystemTime + Send,
) {
    let mut known = None;
    let mut last_night = None;
    loop {
        tokio::time::sleep(CHECK_INTERVAL - (CHECK_INTERVAL / JITTER).mul_f64(fastrand::f64()))
            .await;
        if let Some(night) = night(clock(), hour).filter(|night| Some(*night) != last_night)
            && learn(builder.storage(), &metrics).await
        {
            last_night = Some(night);
        }
        if let Err(error) = change_plan(&builder, &metrics, &mut known).await {
            let error = error_chain(&error);
            tracing::warn!(
                error,
                "cannot read the learned cluster plan; keeping the current one"
            );
        }
    }
}

/// Returns the number of the day during the hour of learning.
fn night(now: SystemTime, hour: u8) -> Option<u64> {
    let hours = now.duration_since(UNIX_EPOCH).ok()?.as_secs() / 3600;
    (hours % 24 == u64::from(hour)).then_some(hours / 24)
}

/// Learns a plan. Returns whether that is done for tonight.
async fn learn(storage: &Arc<dyn Storage>, metrics: &PlanMetrics) -> bool {
    match learned::learn(Arc::clone(storage)).await {
        Ok(LearnOutcome::Learned(PlanPointer {
            plan, base, images, ..
        })) => {
            metrics.made.inc();
            tracing::info!(%plan, %base, images, "learned a cluster plan");
        }
        Ok(LearnOutcome::Kept(PlanPointer { base, .. })) => {
            metrics.kept.inc();
            tracing::info!(%base, "kept the cluster plan: enough images still use the packages it was made for");
        }
        Ok(LearnOutcome::NewerVersion) => {
            metrics.kept.inc();
            tracing::warn!("learned no cluster plan: a newer version of Nixery has learned one");
        }
        Ok(LearnOutcome::TooFewImages { images }) => {
            metrics.kept.inc();
            let least = learned::LEAST_IMAGES;
            tracing::info!(
                images,
                least,
                "learned no cluster plan: too few images are recorded"
            );
        }
        Ok(LearnOutcome::Busy) => {
            metrics.skipped.inc();
            tracing::info!("learned no cluster plan: another server is learning");
        }
        Err(error) => {
            metrics.failed.inc();
            let error = error_chain(&error);
            tracing::warn!(error, "cannot learn a cluster plan");
            return false;
        }
    }
    true
}

/// Uses the current learned plan of the store; `known` is the plan of the last change.
async fn change_plan(
    builder: &Builder,
    metrics: &PlanMetrics,
    known: &mut Option<Digest>,
) -> Result<(), LearnError> {
    let storage = &**builder.storage();
    let pointed = learned::read_pointer(storage)
        .await?
        .map(|pointer| pointer.plan);
    // Without a plan in the store, the current one stays.
    if pointed.is_none() || pointed == *known {
        return Ok(());
    }
    let Some(learned) = learned::load(storage).await? else {
        return Ok(());
    };
    *known = Some(learned.pointer.plan);
    let strategy = Clustered { plan: learned.plan };
    let before = builder.strategy().id();
    // The plan was loaded at the start of the server.
    if strategy.id() == before {
        return Ok(());
    }
    tracing::info!(
        before,
        "the cluster plan has changed: images are built again"
    );
    log_plan(&strategy.plan);
    builder.set_strategy(Arc::new(strategy));
    metrics.changes.inc();
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, 0, Some(0))]
    #[case(3 * 3600 - 1, 3, None)]
    #[case(3 * 3600, 3, Some(0))]
    #[case(4 * 3600 - 1, 3, Some(0))]
    #[case(4 * 3600, 3, None)]
    #[case(47 * 3600, 23, Some(1))]
    fn each_day_has_one_night(
        #[case] seconds: u64,
        #[case] hour: u8,
        #[case] expected: Option<u64>,
    ) {
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(night(now, hour), expected);
    }
}
