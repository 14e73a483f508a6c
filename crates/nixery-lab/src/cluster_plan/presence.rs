//! Which names are in which samples, and what each name needs.

use super::name_set::NameSet;
use super::sample::{CheckedSample, PlanSample};
use super::{LARGEST, Progress, Stage, Step};

/// The samples seen from the names. Names are numbers in the order of their texts.
pub(super) struct Presence {
    /// Per name, the samples whose closure holds it, ascending.
    pub(super) samples_of: Vec<Vec<u16>>,
    /// Per sample, the names of its closure, ascending.
    pub(super) names_in: Vec<Vec<u32>>,
}

/// Walks a graph of packages; what it has visited is reset at the cost of the visit.
struct Walk<'a> {
    sample: &'a CheckedSample<'a>,
    seen: Vec<u32>,
    /// The number of this visit; what is older was not seen in it.
    visit: u32,
    todo: Vec<u32>,
}

impl Walk<'_> {
    /// The names of the closure of `roots`, ascending, each once.
    fn names(&mut self, roots: &[u32]) -> Vec<u32> {
        self.visit += 1;
        let mut names = Vec::new();
        self.todo.extend_from_slice(roots);
        while let Some(package) = self.todo.pop() {
            let package = package as usize;
            if std::mem::replace(&mut self.seen[package], self.visit) != self.visit {
                names.push(self.sample.name_of[package]);
                self.todo
                    .extend_from_slice(&self.sample.packages[package].references);
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl<'a> Walk<'a> {
    fn new(sample: &'a CheckedSample<'a>) -> Self {
        Self {
            sample,
            seen: vec![0; sample.packages.len()],
            visit: 0,
            todo: Vec::new(),
        }
    }
}

impl Presence {
    /// The closure of every sample.
    pub(super) fn of(
        sample: &PlanSample,
        checked: &CheckedSample<'_>,
        step: &mut Step<'_>,
    ) -> Self {
        let mut walk = Walk::new(checked);
        let mut samples_of = vec![Vec::new(); checked.names.len()];
        let mut names_in = Vec::with_capacity(sample.samples.len());
        for (index, roots) in (0u16..).zip(&sample.samples) {
            step.at(Stage::Samples, usize::from(index), sample.samples.len());
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

    /// Whether a name can be in a cluster with others: it is in a sample, and not too large.
    pub(super) fn takes_part(&self, checked: &CheckedSample<'_>, name: usize) -> bool {
        !self.samples_of[name].is_empty() && checked.nar_sizes[name] <= LARGEST
    }
}

/// Per name that takes part, the names of its closure; empty sets for the others.
///
/// Names are numbered by how many samples have them, so that what most closures share lies close together.
pub(super) fn closures(
    checked: &CheckedSample<'_>,
    presence: &Presence,
    step: &mut Step<'_>,
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
            step.at(Stage::Closures, name, count);
            if !presence.takes_part(checked, name) {
                return NameSet::default();
            }
            let names = walk.names(&packages_of[name]);
            let mut ranks: Vec<u32> = names.iter().map(|&name| rank[name as usize]).collect();
            ranks.sort_unstable();
            NameSet::from_sorted(ranks)
        })
        .collect()
}

impl Step<'_> {
    /// Reports every now and then.
    pub(super) fn at(&mut self, stage: Stage, done: usize, total: usize) {
        if done.is_multiple_of(256) || done == total {
            (self.0)(Progress { stage, done, total });
        }
    }
}
