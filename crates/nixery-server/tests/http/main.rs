//! Tests of the HTTP interface through the router, on a fake Nix and a store in memory.

// The leave that clippy.toml gives to tests ends at their helper functions.
#![allow(clippy::unwrap_used, clippy::panic)]

mod access;
mod admin;
mod blobs;
mod collection;
mod damage;
mod delivery;
mod errors;
mod failures;
mod fake_nix;
mod fake_store;
mod holds;
#[cfg(feature = "lab")]
mod learning;
mod limits;
mod listen;
mod listings;
mod manifests;
mod originals_defects;
mod pages;
mod quotas;
mod registry;
mod tls;
#[cfg(feature = "lab")]
mod traffic;
