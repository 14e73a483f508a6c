//! The data that Nixery servers share in a blob store.
//!
//! - [`record`]: cache entries as versioned JSON ([`versioned`]): built images and packed layers.
//! - [`uses`]: marks that say when a blob was last needed, for the garbage collection.
//! - [`lease`]: one server does a task while the others wait for it.
//! - [`gc`]: the garbage collection. Each feature declares how long its data is kept
//!   ([`gc::Retention`]).
//! - [`graphs`]: the reference graphs of built images.
//! - [`names`]: which images were served under a name, to decide who may have their blobs.
//! - [`WriteAccess`]: whether the store refuses to be written to.
//!
//! Any number of processes may use the same store at the same time.

pub mod gc;
pub mod graphs;
pub mod lease;
mod marks;
pub mod names;
pub mod record;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod unchanged;
pub mod uses;
pub mod versioned;
mod write_access;

pub use write_access::WriteAccess;

/// How long graphs and names are kept, for the garbage collection of a store.
pub const RETENTIONS: [gc::Retention; 2] = [graphs::KEPT, names::KEPT];

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
