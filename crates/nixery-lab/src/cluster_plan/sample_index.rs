//! The samples by name: which names are in which samples, and the closure of each name.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::name_set::NameSet;
use super::sample::{PlanSample, SamplePackage};
use super::{BuildPlanError, LARGEST, MAX_SAMPLES, PlanStage, Reporter};

/// A valid sample, by name. Names are numbers in bytewise order.
pub(super) struct SampleIndex<'a> {
    packages: &'a [SamplePackage],
    /// All names, sorted, each once.
    pub(super) names: Vec<&'a str>,
    /// Per package the number of its name.
    name_of: Vec<u32>,
    /// Per name the NAR size of its largest package.
    pub(super) nar_sizes: Vec<u64>,
    /// Per name, the samples whose closure contains it, ascending.
    pub(super) samples_of: Vec<Vec<u16>>,
    /// Per sample, the names of its closure, ascending.
    pub(super) names_in: Vec<Vec<u32>>,
}

impl<'a> SampleIndex<'a> {
    /// Validates the indices of a sample and computes the closure of every list of roots.
    pub(super) fn new(
        sample: &'a PlanSample,
        reporter: &mut Reporter<'_>,
    ) -> Result<Self, BuildPlanError> {
        let packages = &sample.packages;
        let count = sample.samples.len();
        if count == 0 || count > usize::from(MAX_SAMPLES) {
            return Err(BuildPlanError::Samples { count });
        }
        let end = u32::try_from(packages.len()).map_err(|_| BuildPlanError::TooManyPackages {
            count: packages.len(),
        })?;
        let check = |indices: &[u32], owner: &dyn Fn() -> String| {
            let outside = indices.iter().copied().find(|&index| index >= end);
            outside.map_or(Ok(()), |index| {
                let owner = owner();
                Err(BuildPlanError::Index { owner, index, end })
            })
        };
        for package in packages {
            check(&package.references, &|| {
                format!("package {:?}", package.name)
            })?;
        }
        for (number, roots) in sample.samples.iter().enumerate() {
            check(roots, &|| format!("sample {number}"))?;
        }
        let mut nar_sizes = BTreeMap::new();
        for package in packages {
            let nar_size = nar_sizes.entry(&*package.name).or_default();
            *nar_size = package.nar_size.max(*nar_size);
        }
        let (names, nar_sizes): (Vec<&str>, Vec<u64>) = nar_sizes.into_iter().unzip();
        let name_of = packages.iter().map(|package| {
            let name = names.partition_point(|&name| name < &*package.name);
            name as u32
        });
        let name_of: Vec<u32> = name_of.collect();
        let mut walk = Walk::new(packages, &name_of);
        let mut samples_of = vec![Vec::new(); names.len()];
        let mut names_in = Vec::with_capacity(count);
        for (number, roots) in (0u16..).zip(&sample.samples) {
            reporter.at(PlanStage::Samples, usize::from(number), count);
            let closure = walk.names(roots);
            for &name in &closure {
                samples_of[name as usize].push(number);
            }
            names_in.push(closure);
        }
        Ok(Self {
            packages,
            names,
            name_of,
            nar_sizes,
            samples_of,
            names_in,
        })
    }

    /// Returns whether a name can be in a cluster with others: it is in a sample, and not too
    /// large.
    pub(super) fn can_share(&self, name: usize) -> bool {
        !self.samples_of[name].is_empty() && self.nar_sizes[name] <= LARGEST
    }

    /// Returns the closure of each name that can be in a cluster, and empty sets for other names.
    ///
    /// Names are numbered by the number of their samples, so that the names that most closures
    /// share are close together.
    pub(super) fn closures(&self, reporter: &mut Reporter<'_>) -> Vec<NameSet> {
        let count = self.names.len();
        let mut by_reach: Vec<u32> = (0..count as u32).collect();
        by_reach.sort_by_key(|&name| Reverse(self.samples_of[name as usize].len()));
        let mut rank = vec![0; count];
        for (place, &name) in (0..).zip(&by_reach) {
            rank[name as usize] = place;
        }
        let mut packages_of = vec![Vec::new(); count];
        for (package, &name) in (0..).zip(&self.name_of) {
            packages_of[name as usize].push(package);
        }
        let mut walk = Walk::new(self.packages, &self.name_of);
        (0..count)
            .map(|name| {
                reporter.at(PlanStage::Closures, name, count);
                if !self.can_share(name) {
                    return NameSet::default();
                }
                let names = walk.names(&packages_of[name]).into_iter();
                let mut ranks: Vec<u32> = names.map(|name| rank[name as usize]).collect();
                ranks.sort_unstable();
                NameSet::from_sorted(ranks)
            })
            .collect()
    }
}

/// Walks a graph of packages. A walk costs only as much as it visits.
struct Walk<'a> {
    packages: &'a [SamplePackage],
    name_of: &'a [u32],
    /// Per package, the number of the last walk that visited it.
    visited: Vec<u32>,
    walks: u32,
    unvisited: Vec<u32>,
}

impl<'a> Walk<'a> {
    fn new(packages: &'a [SamplePackage], name_of: &'a [u32]) -> Self {
        Self {
            packages,
            name_of,
            visited: vec![0; packages.len()],
            walks: 0,
            unvisited: Vec::new(),
        }
    }

    /// Returns the names of the closure of `roots`, ascending, each once.
    fn names(&mut self, roots: &[u32]) -> Vec<u32> {
        self.walks += 1;
        let mut names = Vec::new();
        self.unvisited.extend_from_slice(roots);
        while let Some(package) = self.unvisited.pop() {
            let package = package as usize;
            if std::mem::replace(&mut self.visited[package], self.walks) != self.walks {
                names.push(self.name_of[package]);
                let references = &self.packages[package].references;
                self.unvisited.extend_from_slice(references);
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}
