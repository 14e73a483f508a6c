//! Clients that take everything: open windows for nothing, read nothing, hold connections.
//!
//! The server is a process of its own with 1,024 descriptors, so that its memory and descriptors
//! can be counted. While a hostile client is at work, health checks and a cached manifest are
//! answered.

// The leave that clippy.toml gives to tests ends at their helper functions.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../http/fake_nix.rs"]
#[allow(dead_code)]
mod fake_nix;
mod http1;
mod http2;
mod probe;
mod server;
