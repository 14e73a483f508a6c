//! Inputs and baselines shared by the benchmarks.
//!
//! [`package_set`] writes a reference graph of any size as Nix would, the same on every machine;
//! [`baseline`] holds the plain way of doing what the benchmarks measure, to compare with.

pub mod baseline;
pub mod baseline_pack;
mod package_set;
pub mod trees;

pub use package_set::{PackageSet, cluster_plan, dense_package_set, package_families, package_set};

/// Numbers of paths that the benchmarks run at: from a small image to a whole package set.
pub const SIZES: [usize; 4] = [50, 500, 5_000, 50_000];
