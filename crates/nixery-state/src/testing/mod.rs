//! Test doubles: stores that fail, wait or count, and a store with made-up images in it.

#![allow(missing_docs)]

pub mod faulty;
pub mod stepped;
pub mod world;
