//! The cluster plan that a store's servers have learned from what its images held.
//!
//! A plan lies under `plans/` by the SHA-256 of its file; a pointer beside it says which one is used, and what
//! it was made for. Servers on the store look at the pointer now and then ([`pointed`], [`load`]); at night one
//! of them looks whether it is time for another plan ([`learn`]).
//!
//! Another plan means other layers, so there is one only when nearly all layers are others anyway: when hardly any of
//! the newest images stand any more on the path that the plan was made for, the root of everything, glibc as a rule.
//!
//! ```
//! use std::sync::Arc;
//! use crate::learned::{self, Lesson};
//! use nixery_storage::MemoryStorage;
//!
//! # #[tokio::main] async fn main() -> Result<(), learned::LearnError> {
//! let storage = Arc::new(MemoryStorage::new());
//! assert_eq!(learned::learn(storage.clone()).await?, Lesson::TooFew { images: 0 });
//! assert!(learned::load(&*storage).await?.is_none());
//! # Ok(()) }
//! ```

mod base;
mod pointer;
mod teach;
#[cfg(test)]
mod tests;

use crate::cluster_plan::BuildPlanError;
use nixery_storage::StorageError;

use nixery_state::graphs::GraphsError;

pub use pointer::{KEPT, LearnedPlan, PLANS, Pointer, load, pointed};
pub use teach::{LEAST_IMAGES, Lesson, PERIOD, learn};

/// Why no plan was learned, or the learned plan cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The store failed.
    #[error("the learned cluster plan cannot be {doing}")]
    Storage {
        /// What was to be done: "read", "stored", "leased".
        doing: &'static str,
        /// The store's reason.
        #[source]
        source: StorageError,
    },
    /// The recorded images cannot be read.
    #[error("a cluster plan cannot be learned")]
    Graphs(#[source] GraphsError),
    /// No plan can be made of them.
    #[error("a cluster plan cannot be learned from the recorded images")]
    Build(#[source] BuildPlanError),
    /// The making of the plan ended early.
    #[error("the making of a cluster plan broke off")]
    Broken,
}
