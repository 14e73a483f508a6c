//! Makes and evaluates layer plans: cluster plans, popularity data, recorded pulls and their
//! replay.
//!
//! The registry works without this crate.

pub mod cluster_plan;
mod gather;
pub mod learned;
mod numbers;
pub mod path_sources;
pub mod popularity;
pub mod reference_sink;
pub mod replay;
pub mod traffic;

use nixery_state::gc::Retention;
use nixery_state::{graphs, names};

pub use gather::{GatherProgress, gather};

/// Retention of graphs, names, recorded pulls and learned plans, for the garbage collection of a
/// store.
pub const RETENTIONS: [Retention; 4] = [graphs::KEPT, names::KEPT, traffic::KEPT, learned::KEPT];

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
