//! Test doubles: stores that fail, wait or count, and a store with example images.

pub mod faulty;
pub mod stepped;
pub mod world;
