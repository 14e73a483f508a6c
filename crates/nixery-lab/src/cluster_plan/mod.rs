//! Making a cluster plan from a package set.
//!
//! A plan determines which names share a layer in every image. It is made from samples of what
//! images contain:
//!
//! 1. Per name, the set of samples whose closure contains it.
//! 2. Candidate pairs: each name's 16 most similar names by these sets (Jaccard), ties by name.
//!    Names without samples, and names over 64 MiB, stay alone.
//! 3. The worth of a cluster is the amount that it saves clients: the sum over its *parts* (the
//!    sets of members that are present in a sample) of the compressed size, times the share p of
//!    samples with that part, times 0.8 · (1 − (1 − p)⁵) for first pulls and 0.4 · 0.997^|closure|
//!    for updates.
//! 4. The cheapest pair is merged first. Its cost is the worth that is lost, per image with both. A
//!    merge never counts as cheaper than the merges that it is made of. Clusters have at most 24
//!    MiB of NARs, and a merge costs at most 40,000 bytes.
//!
//! All decisions use whole numbers (see `worth.rs` for units), and ties are decided by name: the
//! plan is a function of the sample, on every machine. Memory is about 2 KB for a name with usual
//! closures: at most 12 bytes per 64 names for each name's closure, and 8 bytes for each name in
//! each sample.

mod collection;
mod draw;
mod merge;
mod name_set;
mod neighbours;
mod sample;
mod sample_index;
#[cfg(test)]
mod tests;
mod worth;

use std::error::Error;

use nixery_core::{ClusterPlan, ClusterPlanError, PlannedPackage};

pub use collection::PathCollection;
pub use draw::{DEFAULT_SAMPLES, DEFAULT_SEED};
pub use sample::{PlanSample, SamplePackage};

use sample_index::SampleIndex;
use worth::Worth;

/// Limit of the number of samples of a plan.
pub const MAX_SAMPLES: u16 = 65_000;

/// Candidate pairs per name.
const NEIGHBOURS: usize = 16;
/// Limit of the NAR bytes of a name that shares a layer.
const LARGEST: u64 = 64 << 20;
/// Limit of the NAR bytes of a cluster of several names.
const LARGEST_CLUSTER: u64 = 24 << 20;
/// Limit of the cost of a merge, in units of [`Worth::cost`].
const MOST_COST: u128 = Worth::bytes(40_000);

/// Why a plan cannot be made.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum BuildPlanError {
    /// The JSON is not a sample.
    #[error("this is not a plan sample: expected JSON with `packages` and `samples`")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
    /// There are no samples, or too many.
    #[error("a plan is made from 1 to {MAX_SAMPLES} samples, not from {count}")]
    Samples {
        /// The number.
        count: usize,
    },
    /// More packages than can be numbered.
    #[error("{count} packages are too many for a plan")]
    TooManyPackages {
        /// The number.
        count: usize,
    },
    /// A reference or a root is out of range.
    #[error("{owner} refers to package {index}, but there are only {end}, counted from 0")]
    Index {
        /// The package or sample with the reference.
        owner: String,
        /// The index.
        index: u32,
        /// Number of packages.
        end: u32,
    },
    /// A name or the revision is not valid in a plan.
    #[error("the plan cannot be used")]
    Plan(#[from] ClusterPlanError),
}

/// A stage of the building of a plan.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanStage {
    /// Finding the names in the samples.
    Samples,
    /// Finding the closure of each name.
    Closures,
    /// Finding similar names.
    Neighbours,
    /// Computing the cost of each pair.
    Pairs,
    /// Merging. It ends before `done` equals `total`.
    Merging,
}

/// Progress of the building of a plan.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanProgress {
    /// The current stage.
    pub stage: PlanStage,
    /// Number of items that are done.
    pub done: usize,
    /// Limit of the number of items.
    pub total: usize,
}

/// Reports progress to the caller.
struct Reporter<'a>(&'a mut dyn FnMut(PlanProgress));

impl Reporter<'_> {
    /// Reports the progress at intervals.
    fn at(&mut self, stage: PlanStage, done: usize, total: usize) {
        if done.is_multiple_of(256) || done == total {
            (self.0)(PlanProgress { stage, done, total });
        }
    }
}

/// Makes a plan; `revision` is stored in it and describes what it was made from.
///
/// ```
/// use nixery_lab::cluster_plan::{PlanSample, build};
/// let sample = PlanSample::from_json(br#"{
///     "packages": [["editor", 9000000, [1, 2]], ["libtext", 30000, [2]], ["libc", 8000000, []]],
///     "samples": [[0], [0], [2], [2]]
/// }"#).unwrap();
/// let plan = build(&sample, "example".into(), &mut |_| ()).unwrap();
/// // The library is in every image with the editor; libc is in other images too.
/// assert_eq!(plan.get("editor").unwrap().0, plan.get("libtext").unwrap().0);
/// assert_ne!(plan.get("editor").unwrap().0, plan.get("libc").unwrap().0);
/// ```
///
/// # Errors
/// There are no samples or too many, an index is out of range, or a name is not valid in a plan.
pub fn build(
    sample: &PlanSample,
    revision: String,
    progress: &mut dyn FnMut(PlanProgress),
) -> Result<ClusterPlan, BuildPlanError> {
    let packages = packages(sample, progress)?;
    Ok(ClusterPlan::new(
        revision,
        sample.samples.len() as u32,
        packages,
    )?)
}

/// The packages of the plan, sorted by name.
fn packages(
    sample: &PlanSample,
    progress: &mut dyn FnMut(PlanProgress),
) -> Result<Vec<PlannedPackage>, BuildPlanError> {
    let reporter = &mut Reporter(progress);
    let mut index = SampleIndex::new(sample, reporter)?;
    let closures = index.closures(reporter);
    let pairs = neighbours::candidates(&index, reporter);
    index.names_in = Vec::new();
    // The index limits the number of samples to `MAX_SAMPLES`.
    let worth = Worth::new(sample.samples.len() as u16, index.names.len());
    let clusters = merge::clusters(&index, closures, &pairs, &worth, reporter);

    let mut cluster_of: Vec<u32> = (0..index.names.len() as u32).collect();
    for members in clusters {
        let least = members.iter().copied().min().unwrap_or_default();
        for member in members {
            cluster_of[member as usize] = least;
        }
    }
    let names = index.names.iter().enumerate();
    let planned = names.map(|(name, text)| PlannedPackage {
        name: (*text).to_owned(),
        cluster: index.names[cluster_of[name] as usize].to_owned(),
        samples: index.samples_of[name].len() as u32,
    });
    Ok(planned.collect())
}
