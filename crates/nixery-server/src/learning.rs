//! The cluster plan that servers learn: taken up when there is another, made at night.

use crate::metrics::Metrics;
use crate::setup::log_plan;
use crate::state::AppState;
use nixery_builder::learned::{self, LearnError, Lesson, Pointer};
use nixery_core::{Clustered, LayerStrategy};
use nixery_manifest::Digest;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time between two looks at which plan is used, in which replicas may differ in theirs. Less by up to a tenth,
/// so that replicas do not stay in step.
const LOOK: Duration = Duration::from_secs(5 * 60);
const JITTER: u32 = 10;

/// What learning did, from the start of the process.
#[derive(Debug, Default)]
pub struct PlanMetrics {
    /// Plans that were made.
    pub made: AtomicU64,
    /// Nights in which the plan stayed, or there was too little to learn from.
    pub kept: AtomicU64,
    /// Nights in which another server was at it.
    pub skipped: AtomicU64,
    /// Failures.
    pub failed: AtomicU64,
    /// How often this server took up another plan.
    pub changes: AtomicU64,
}

/// Takes up the plan that the store's servers have learned, whenever there is another, and in the hour `hour` of
/// each day, UTC, sees to it that one of them learns. Until it is dropped, which is harmless at any moment.
/// `clock` tells the time of day.
pub async fn learn_forever(state: AppState, hour: u8, clock: impl Fn() -> SystemTime + Send) {
    let mut known = None;
    let mut last_night = None;
    loop {
        tokio::time::sleep(LOOK - (LOOK / JITTER).mul_f64(draw())).await;
        if let Some(night) = night(clock(), hour).filter(|night| Some(*night) != last_night)
            && learn(&state).await
        {
            last_night = Some(night);
        }
        if let Err(error) = take_up(&state, &mut known).await {
            tracing::warn!(
                cause = cause(&error),
                "the layer plan stays as it is: {error}"
            );
        }
    }
}

/// The number of the day, in the hour in which there is something to do.
fn night(now: SystemTime, hour: u8) -> Option<u64> {
    let hours = now.duration_since(UNIX_EPOCH).ok()?.as_secs() / 3600;
    (hours % 24 == u64::from(hour)).then_some(hours / 24)
}

/// Whether that is done for tonight.
async fn learn(state: &AppState) -> bool {
    let lesson = learned::learn(Arc::clone(state.builder().storage())).await;
    let metrics = state.metrics().plans();
    let (counter, done) = match &lesson {
        Ok(Lesson::New(_)) => (&metrics.made, true),
        Ok(Lesson::Kept(_) | Lesson::Newer | Lesson::TooFew { .. }) => (&metrics.kept, true),
        Ok(Lesson::Busy) => (&metrics.skipped, true),
        Err(_) => (&metrics.failed, false),
    };
    counter.fetch_add(1, Ordering::Relaxed);
    match lesson {
        Ok(Lesson::New(Pointer { plan, base, images })) => {
            tracing::info!(%plan, %base, images, "a layer plan was learned");
        }
        Ok(Lesson::Kept(Pointer { base, .. })) => {
            tracing::info!(%base, "the layer plan stays: enough images stand on what it was made for");
        }
        Ok(Lesson::Newer) => {
            tracing::warn!("no layer plan is learned: a newer version of Nixery has learned one");
        }
        Ok(Lesson::TooFew { images }) => {
            let least = learned::LEAST_IMAGES;
            tracing::info!(
                images,
                least,
                "no layer plan is learned: too few images are recorded"
            );
        }
        Ok(Lesson::Busy) => {
            tracing::info!("no layer plan is learned here: another server is at it");
        }
        Err(error) => {
            tracing::warn!(cause = cause(&error), "no layer plan was learned: {error}");
        }
    }
    done
}

/// Groups images by the plan that the store says is used; `known` is the one that was seen last.
async fn take_up(state: &AppState, known: &mut Option<Digest>) -> Result<(), LearnError> {
    let storage = &**state.builder().storage();
    let pointed = learned::pointed(storage).await?.map(|pointer| pointer.plan);
    // A plan that is gone, or cannot be read, leaves things as they are.
    if pointed.is_none() || pointed == *known {
        return Ok(());
    }
    let Some(learned) = learned::load(storage).await? else {
        return Ok(());
    };
    *known = Some(learned.pointer.plan);
    let strategy = Clustered { plan: learned.plan };
    let before = state.builder().strategy().id();
    // As after a start.
    if strategy.id() == before {
        return Ok(());
    }
    tracing::info!(before, "the layer plan has changed: images are built anew");
    log_plan(&strategy.plan);
    state.builder().set_strategy(Arc::new(strategy));
    let changes = &state.metrics().plans().changes;
    changes.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn cause(error: &LearnError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

impl Metrics {
    /// Appends the families of learned plans.
    pub(crate) fn render_plans(
        &self,
        mut family: impl FnMut(&str, &str, &str, Vec<(String, String)>),
    ) {
        let plans = self.plans();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let runs = vec![
            ("result=\"made\"".to_owned(), get(&plans.made)),
            ("result=\"kept\"".to_owned(), get(&plans.kept)),
            ("result=\"skipped\"".to_owned(), get(&plans.skipped)),
            ("result=\"failed\"".to_owned(), get(&plans.failed)),
        ];
        let help = "Nightly looks whether to learn a layer plan, by how they ended";
        family("nixery_plan_learning_total", "counter", help, runs);
        let changes = vec![(String::new(), get(&plans.changes))];
        let help = "Learned layer plans that this server took up after its start";
        family("nixery_plan_changes_total", "counter", help, changes);
    }
}

/// A number from 0 to 1 that replicas draw independently.
#[allow(clippy::cast_precision_loss)]
fn draw() -> f64 {
    RandomState::new().hash_one("plan") as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

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
