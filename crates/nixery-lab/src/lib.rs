//! Makes and evaluates layer plans: cluster plans, popularity data, and replays of pulls.
//!
//! The registry works without this crate.

pub mod cluster_plan;
pub mod popularity;
pub mod reference_sink;
pub mod replay;
