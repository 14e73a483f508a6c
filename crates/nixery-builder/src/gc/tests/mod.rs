//! Tests of the collection: the plan alone, whole collections, and both beside builds and pulls.

mod faults;
mod model;
mod planning;
mod remembering;
mod stepped;
mod sweeping;
mod world;

pub(crate) use stepped::Stepped;
pub(crate) use world::memory;
