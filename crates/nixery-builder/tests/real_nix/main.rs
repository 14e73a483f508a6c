//! The builder over real Nix, with a package set of `/bin/sh` derivations.
//!
//! Needs `nix-bin` (2.8 or later). As root without a `nixbld` group, and without a network:
//! `NIX_CONFIG=$'build-users-group =\nsubstituters ='`. `make test` sets it.
#![allow(clippy::panic)] // A helper of a test may fail the test.

mod building;
mod children;
mod failures;
mod git;
mod preflight;
mod setup;
mod stopping;
