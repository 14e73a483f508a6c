//! Making a plan from a package set.
//!
//! A plan says which names share a layer in every image. It is made from samples of what images hold:
//!
//! 1. Per name, the set of samples whose closure holds it.
//! 2. Candidate pairs: each name's 16 nearest by the likeness of these sets (Jaccard), ties by name.
//!    Names of no sample, and those over 64 MiB, stay alone.
//! 3. The worth of a cluster is what it saves clients: over its *parts* (which members are present in a
//!    sample), the compressed size, times the share p of samples with that part, times
//!    0.8 · (1 − (1 − p)⁵) for first pulls and 0.4 · 0.997^|closure| for updates.
//! 4. The cheapest pair is merged first. It costs the worth that is lost, per image with both; a merge counts
//!    as no cheaper than those it is made of. Never over 24 MiB of NARs, nor at more than 40,000 bytes.
//!
//! Whole numbers decide everything (see `worth.rs` for units), and ties are decided by name: the plan is a
//! function of the sample, on every machine. Memory is some 2 KB for a name with usual closures; at most
//! 12 bytes per 64 names for each name's closure, and 8 bytes for each name in each sample.

mod collection;
mod draw;
mod merge;
mod name_set;
mod neighbours;
mod presence;
mod sample;
#[cfg(test)]
mod tests;
mod worth;

use nixery_core::{ClusterPlan, ClusterPlanError, PlannedPackage};
use sample::CheckedSample;
use worth::Worth;

pub use collection::PathCollection;
pub use draw::{DEFAULT_SAMPLES, DEFAULT_SEED};
pub use sample::{PlanSample, SamplePackage};

/// Most samples that a plan can be made from.
pub const MAX_SAMPLES: u16 = 65_000;

/// Candidate pairs per name.
const NEIGHBOURS: usize = 16;
/// NAR bytes of the largest name that shares a layer.
const LARGEST: u64 = 64 << 20;
/// NAR bytes of the largest cluster of several names.
const LARGEST_CLUSTER: u64 = 24 << 20;
/// What a merge may cost, in units of [`Worth::cost`].
const MOST_COST: u128 = Worth::bytes(40_000);

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildPlanError {
    /// The sample's JSON is something else.
    #[error("this is not a plan sample: expected JSON with 'packages' and 'samples'")]
    Malformed(#[source] serde_json::Error),
    /// No samples, or too many.
    #[error("a plan is made from 1 to {MAX_SAMPLES} samples, not from {count}")]
    Samples {
        /// How many there are.
        count: usize,
    },
    /// More packages than can be numbered.
    #[error("{count} packages are too many for a plan")]
    TooManyPackages {
        /// How many there are.
        count: usize,
    },
    /// A reference leads nowhere.
    #[error("the package {name:?} refers to package {index}, but there are only {end}")]
    Reference {
        /// Whose reference.
        name: String,
        /// Where it leads.
        index: u32,
        /// Number of packages.
        end: u32,
    },
    /// A sample names a package that is not there.
    #[error("sample {sample} names package {index}, but there are only {end}")]
    Root {
        /// Which sample, from 0.
        sample: usize,
        /// What it names.
        index: u32,
        /// Number of packages.
        end: u32,
    },
    /// The plan cannot be made of what came out.
    #[error("the plan cannot be used")]
    Plan(#[from] ClusterPlanError),
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking which names the samples hold.
    Samples,
    /// Looking what each name needs.
    Closures,
    /// Looking for names that come together.
    Neighbours,
    /// Weighing the pairs.
    Pairs,
    /// Merging; it ends before `done` is `total`.
    Merging,
}

/// How far the building of a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How much of it is done.
    pub done: usize,
    /// How much there is at most.
    pub total: usize,
}

/// Whom to tell how far it is.
struct Step<'a>(&'a mut dyn FnMut(Progress));

/// Makes a plan; `revision` says in the plan what it was made from.
///
/// ```
/// use crate::cluster_plan::{PlanSample, build};
/// let sample = PlanSample::from_json(br#"{
///     "packages": [["editor", 9000000, [1, 2]], ["libtext", 30000, [2]], ["libc", 8000000, []]],
///     "samples": [[0], [0], [2], [2]]
/// }"#).unwrap();
/// let plan = build(&sample, "example".into(), &mut |_| ()).unwrap();
/// // Where the editor is, there is its library; libc is in other images too.
/// assert_eq!(plan.get("editor").unwrap().0, plan.get("libtext").unwrap().0);
/// assert_ne!(plan.get("editor").unwrap().0, plan.get("libc").unwrap().0);
/// ```
///
/// # Errors
/// No samples or too many, an index that leads nowhere, a name that a plan cannot hold.
pub fn build(
    sample: &PlanSample,
    revision: String,
    progress: &mut dyn FnMut(Progress),
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
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<PlannedPackage>, BuildPlanError> {
    let step = &mut Step(progress);
    let checked = CheckedSample::new(sample)?;
    let mut presence = presence::Presence::of(sample, &checked, step);
    let closures = presence::closures(&checked, &presence, step);
    let pairs = neighbours::candidates(&checked, &presence, step);
    presence.names_in = Vec::new();
    // Not over u16: CheckedSample has looked.
    let worth = Worth::new(sample.samples.len() as u16, checked.names.len());
    let clusters = merge::clusters(&checked, &presence, closures, &pairs, &worth, step);

    let mut cluster_of: Vec<u32> = (0..checked.names.len() as u32).collect();
    for members in clusters {
        if let Some(&least) = members.iter().min() {
            for member in members {
                cluster_of[member as usize] = least;
            }
        }
    }
    let planned = checked.names.iter().enumerate().map(|(name, text)| {
        let cluster = checked.names[cluster_of[name] as usize];
        PlannedPackage {
            name: (*text).to_owned(),
            cluster: cluster.to_owned(),
            samples: presence.samples_of[name].len() as u32,
        }
    });
    Ok(planned.collect())
}
