//! Which names are in which samples, and the closure of each name.

use super::name_set::NameSet;
use super::sample::{CheckedSample, PlanSample};
use super::{LARGEST, PlanStage, Reporter};

/// The samples by name. Names are numbers in the order of their texts.
pub(super) struct Presence {
    /// Per name, the samples whose closure contains it, ascending.
    pub(super) samples_of: Vec<Vec<u16>>,
    /// Per sample, the names of its closure, ascending.
    pub(super) names_in: Vec<Vec<u32>>,
}

/// Walks a graph of packages. A walk costs only as much as it visits.
struct Walk<'a> {
    sample: &'a CheckedSample<'a>,
    /// Per package, the number of the last walk that visited it.
    visited: Vec<u32>,
    walks: u32,
    unvisited: Vec<u32>,
}

impl<'a> Walk<'a> {
    fn new(sample: &'a CheckedSample<'a>) -> Self {
        Self {
            sample,
            visited: vec![0; sample.packages.len()],
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
                names.push(self.sample.name_of[package]);
                let references = &self.sample.packages[package].references;
                self.unvisited.extend_from_slice(references);
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Presence {
    /// Computes the closure of every sample.
    pub(super) fn of(
        sample: &PlanSample,
        checked: &CheckedSample<'_>,
        reporter: &mut Reporter<'_>,
    ) -> Self {
        let mut walk = Walk::new(checked);
        let mut samples_of = vec![Vec::new(); checked.names.len()];
        let mut names_in = Vec::with_capacity(sample.samples.len());
        for (index, roots) in (0u16..).zip(&sample.samples) {
            reporter.at(PlanStage::Samples, usize::from(index), sample.samples.len());
            let names = walk.names(roots);
            for &name in &names {
                samples_of[name as usize].push(index);
            }
            names_in.push(names);
        }
        Self {
            samples_of,
            names_in,
        }
    }

    /// Returns whether a name can be in a cluster with others: it is in a sample, and not too large.
    pub(super) fn can_share(&self, checked: &CheckedSample<'_>, name: usize) -> bool {
        !self.samples_of[name].is_empty() && checked.nar_sizes[name] <= LARGEST
    }
}

/// Returns the closure of each name that can be in a cluster, and empty sets for other names.
///
/// Names are numbered by the number of their samples, so that the names that most closures share are
/// close together.
pub(super) fn closures(
    checked: &CheckedSample<'_>,
    presence: &Presence,
    reporter: &mut Reporter<'_>,
) -> Vec<NameSet> {
    let count = checked.names.len();
    let mut by_reach: Vec<u32> = (0..count as u32).collect();
    by_reach.sort_by_key(|&name| std::cmp::Reverse(presence.samples_of[name as usize].len()));
    let mut rank = vec![0; count];
    for (place, &name) in (0..).zip(&by_reach) {
        rank[name as usize] = place;
    }
    let mut packages_of = vec![Vec::new(); count];
    for (package, &name) in (0..).zip(&checked.name_of) {
        packages_of[name as usize].push(package);
    }
    let mut walk = Walk::new(checked);
    (0..count)
        .map(|name| {
            reporter.at(PlanStage::Closures, name, count);
            if !presence.can_share(checked, name) {
                return NameSet::default();
            }
            let names = walk.names(&packages_of[name]).into_iter();
            let mut ranks: Vec<u32> = names.map(|name| rank[name as usize]).collect();
            ranks.sort_unstable();
            NameSet::from_sorted(ranks)
        })
        .collect()
}
