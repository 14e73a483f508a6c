//! What Nixery's servers share in a blob store.
//!
//! - [`record`]: cache entries, as versioned JSON ([`versioned`]): built images and packed layers.
//! - [`uses`]: marks of when a blob was last needed, for the garbage collection.
//! - [`lease`]: of several servers one does a task while the others wait for it.
//! - [`gc`]: the garbage collection. Features give it what they remember ([`gc::Retention`]).
//! - [`graphs`]: the reference graphs of images that were built.
//!
//! Everything here is safe beside any number of other processes on the same store.

mod causes;
pub mod gc;
pub mod graphs;
pub mod lease;
mod marks;
pub mod record;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod unchanged;
pub mod uses;
pub mod versioned;

pub use causes::{causes, chain};
