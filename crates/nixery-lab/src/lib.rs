//! The laboratory for layer plans: what a plan is learned from, and what it is worth.
//!
//! A registry works without any of it.

mod gather;
pub mod learned;
pub mod path_sources;
pub mod traffic;

use nixery_state::gc::Retention;
use nixery_state::graphs;

pub use gather::{Gathered, gather};

/// How long a store remembers graphs, recorded pulls and learned plans, for the garbage collection.
pub const RETENTIONS: [Retention; 3] = [graphs::KEPT, traffic::KEPT, learned::KEPT];
