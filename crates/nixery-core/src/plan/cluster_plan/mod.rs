//! Cluster plans: which packages share a layer in every image.
//!
//! A [`ClusterPlan`] is made once for a whole package set. For every package *name*, without hash
//! and version ([`package_key`]), it has the cluster and the *reach*: the number of sampled images
//! in which the name occurs. The strategy [`Clustered`](crate::Clustered) puts the packages of one
//! cluster into one layer, so that the same packages are together in every image.
//!
//! ```
//! use nixery_core::{ClusterPlan, PlannedPackage, package_key};
//! let package = |name: &str, cluster: &str, samples| PlannedPackage {
//!     name: name.to_owned(),
//!     cluster: cluster.to_owned(),
//!     samples,
//! };
//! let packages = [package("bash", "bash", 90), package("readline", "bash", 95), package("git", "git", 8)];
//! let plan = ClusterPlan::new("nixos-25.05".to_owned(), 100, packages).unwrap();
//! let (cluster, samples) = plan.get(&package_key("readline-8.2p13")).unwrap();
//! assert_eq!((plan.cluster_name(cluster), samples), ("bash", 95));
//! assert_eq!(ClusterPlan::from_bytes(&plan.to_bytes()).unwrap().digest(), plan.digest());
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;
use nixery_manifest::Digest;

use crate::store_path::is_name;

mod error;
#[cfg(feature = "pack")]
mod file;
mod package_key;
#[cfg(test)]
mod tests;
mod text;

pub use error::ClusterPlanError;
#[cfg(feature = "pack")]
pub use file::MAX_FILE_BYTES;
pub use package_key::package_key;

/// Number of a cluster in its plan: its position by least name, from 0.
pub type ClusterId = u32;

/// Most bytes of a plan's revision.
const MAX_REVISION_BYTES: usize = 1000;

/// The clusters of package names and the reach of each name. Immutable. A clone costs as much as
/// loading the plan.
#[derive(Clone)]
pub struct ClusterPlan {
    revision: String,
    samples: u32,
    /// Sorted by name.
    packages: Vec<Package>,
    /// Index in `packages` by name, with a faster hash than the standard one: strategies look up
    /// every path. Seeded as well.
    index: HashMap<Arc<str>, u32, DefaultHashBuilder>,
    /// The first package of each cluster, as index in `packages`.
    firsts: Vec<u32>,
    digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: Arc<str>,
    cluster: ClusterId,
    samples: u32,
}

/// One name of a plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlannedPackage {
    /// The name, as [`package_key`] gives it.
    pub name: String,
    /// The least name of its cluster.
    pub cluster: String,
    /// How many samples have the name in their closure.
    pub samples: u32,
}

impl ClusterPlan {
    /// Makes a plan from what `samples` images of the package set's `revision` showed. The order of
    /// the packages does not matter.
    ///
    /// # Errors
    /// There are no samples, the revision is not one line of text, a name cannot be in a store path
    /// or occurs twice, a cluster is not named for its least name, or a name has more samples than
    /// there are.
    pub fn new(
        revision: String,
        samples: u32,
        packages: impl IntoIterator<Item = PlannedPackage>,
    ) -> Result<Self, ClusterPlanError> {
        let packages: Vec<PlannedPackage> = packages.into_iter().collect();
        let borrowed = packages
            .iter()
            .map(|package| (&*package.name, &*package.cluster, package.samples));
        Self::of(revision, samples, borrowed.collect())
    }

    /// As [`Self::new`], from names with their clusters and samples.
    fn of(
        revision: String,
        samples: u32,
        mut given: Vec<(&str, &str, u32)>,
    ) -> Result<Self, ClusterPlanError> {
        if samples == 0 {
            return Err(ClusterPlanError::NoSamples);
        }
        if revision.len() > MAX_REVISION_BYTES || revision.chars().any(char::is_control) {
            return Err(ClusterPlanError::Revision);
        }
        given.sort_unstable();
        if u32::try_from(given.len()).is_err() {
            return Err(ClusterPlanError::TooLarge);
        }
        let mut plan = Self {
            revision,
            samples,
            packages: Vec::with_capacity(given.len()),
            index: HashMap::with_capacity_and_hasher(given.len(), DefaultHashBuilder::default()),
            firsts: Vec::new(),
            digest: Digest::of(b""),
        };
        for package in given {
            plan.add(package)?;
        }
        plan.digest = Digest::of(plan.to_text().as_bytes());
        Ok(plan)
    }

    /// Adds the next package by name. A cluster's least name comes before the others and opens it.
    fn add(&mut self, (name, cluster, samples): (&str, &str, u32)) -> Result<(), ClusterPlanError> {
        if !is_name(name) {
            return Err(ClusterPlanError::Name { name: cut(name) });
        }
        if samples > self.samples {
            let (name, all) = (name.to_owned(), self.samples);
            return Err(ClusterPlanError::Samples { name, samples, all });
        }
        let position = self.packages.len() as u32;
        let id = if cluster == name {
            self.firsts.push(position);
            self.firsts.len() as u32 - 1
        } else {
            let first = self.index.get(cluster).copied();
            let first = first.map(|first| &self.packages[first as usize]);
            match first {
                Some(first) if *self.first(first.cluster).name == *cluster => first.cluster,
                _ => {
                    let (name, cluster) = (name.to_owned(), cut(cluster));
                    return Err(ClusterPlanError::Cluster { name, cluster });
                }
            }
        };
        let name: Arc<str> = name.into();
        if self.index.insert(name.clone(), position).is_some() {
            let name = name.to_string();
            return Err(ClusterPlanError::Repeated { name });
        }
        self.packages.push(Package {
            name,
            cluster: id,
            samples,
        });
        Ok(())
    }

    fn first(&self, cluster: ClusterId) -> &Package {
        &self.packages[self.firsts[cluster as usize] as usize]
    }

    /// The cluster of a name that [`package_key`] returned, and the number of samples with the
    /// name.
    pub fn get(&self, key: &str) -> Option<(ClusterId, u32)> {
        let package = &self.packages[*self.index.get(key)? as usize];
        Some((package.cluster, package.samples))
    }

    /// The least name of a cluster, which is the cluster's name.
    ///
    /// # Panics
    /// The plan does not have the cluster: it has to come from [`Self::get`] of the same plan.
    pub fn cluster_name(&self, cluster: ClusterId) -> &str {
        &self.first(cluster).name
    }

    /// The number of images that the plan was made from; at least 1.
    pub fn samples(&self) -> u32 {
        self.samples
    }

    /// What the plan was made from, for people: a channel, a commit, a folder.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether it has no names.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// Number of clusters, those of one name included.
    pub fn clusters(&self) -> usize {
        self.firsts.len()
    }

    /// Digest of the text, revision included, however the file is compressed. Part of cache keys.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// All packages, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = PlannedPackage> {
        self.packages.iter().map(|package| PlannedPackage {
            name: package.name.to_string(),
            cluster: self.cluster_name(package.cluster).to_owned(),
            samples: package.samples,
        })
    }
}

impl std::fmt::Debug for ClusterPlan {
    /// A summary, because strategies with a plan are printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterPlan")
            .field("revision", &self.revision)
            .field("samples", &self.samples)
            .field("names", &self.len())
            .field("clusters", &self.clusters())
            .field("digest", &self.digest)
            .finish()
    }
}

impl PartialEq for ClusterPlan {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision
            && self.samples == other.samples
            && self.packages == other.packages
    }
}

impl Eq for ClusterPlan {}

/// Cuts a text of the input, which may be anything, for an error.
fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}
