//! The cluster plan that the servers of a store have learned from the contents of its images.
//!
//! A plan is stored under `plans/` by the SHA-256 of its file; a pointer beside it names the plan
//! in use and the base that it was made for. Servers on the store read the pointer regularly
//! ([`read_pointer`], [`load`]). At night one of them checks whether another plan is due
//! ([`learn`]).
//!
//! Another plan changes the layers. So another plan is due only when nearly all layers change
//! anyway: when hardly any of the newest images use the base that the plan was made for, the path
//! that most images depend on, usually glibc.
//!
//! ```
//! use std::sync::Arc;
//! use nixery_lab::learned::{self, LearnOutcome};
//! use nixery_storage::MemoryStorage;
//!
//! # #[tokio::main] async fn main() -> Result<(), learned::LearnError> {
//! let storage = Arc::new(MemoryStorage::new());
//! let outcome = learned::learn(storage.clone()).await?;
//! assert_eq!(outcome, LearnOutcome::TooFewImages { images: 0 });
//! assert!(learned::load(&*storage).await?.is_none());
//! # Ok(()) }
//! ```

mod learn;
mod stored;
#[cfg(test)]
mod tests;

use nixery_state::graphs::GraphsError;
use nixery_storage::StorageError;

pub use learn::{LEAST_IMAGES, LearnOutcome, PERIOD, learn};
pub use stored::{KEPT, LearnedPlan, PLANS, PlanPointer, load, read_pointer};

use crate::cluster_plan::BuildPlanError;

/// Why a plan was not learned, or the learned plan cannot be read.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The store failed.
    #[error("the learned cluster plan cannot be read or stored")]
    Storage(#[from] StorageError),
    /// The recorded images cannot be read.
    #[error("a cluster plan cannot be learned")]
    Graphs(#[from] GraphsError),
    /// The recorded images do not give a plan.
    #[error("a cluster plan cannot be learned from the recorded images")]
    Build(#[from] BuildPlanError),
    /// The thread that makes the plan ended early.
    #[error("making a cluster plan was interrupted")]
    Interrupted,
}
