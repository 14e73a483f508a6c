//! Candidate pairs: names with similar samples.

use std::cmp::Ordering;

use super::sample_index::SampleIndex;
use super::{NEIGHBOURS, PlanStage, Reporter};

/// The similarity of the samples of two names (Jaccard): samples with both names, of those with one
/// of them.
#[derive(Clone, Copy)]
struct Similarity {
    both: u32,
    either: u32,
    name: u32,
}

impl Similarity {
    /// Orders the most similar first, ties by name.
    fn order(&self, other: &Self) -> Ordering {
        let scaled = |both: u32, either: u32| u64::from(both) * u64::from(either);
        scaled(other.both, self.either)
            .cmp(&scaled(self.both, other.either))
            .then(self.name.cmp(&other.name))
    }
}

/// Returns each name's 16 most similar names, as pairs of a lesser and a greater name, sorted, each
/// once.
///
/// The time is proportional to the sum of the squares of the sizes of the samples' closures.
pub(super) fn candidates(index: &SampleIndex<'_>, reporter: &mut Reporter<'_>) -> Vec<(u32, u32)> {
    let count = index.names.len();
    let can_share: Vec<bool> = (0..count).map(|name| index.can_share(name)).collect();
    let mut together = vec![0u32; count];
    let mut others: Vec<u32> = Vec::new();
    let mut nearest: Vec<Similarity> = Vec::new();
    let mut pairs = Vec::new();
    for name in (0..count).filter(|&name| can_share[name]) {
        reporter.at(PlanStage::Neighbours, name, count);
        let own = &index.samples_of[name];
        for &sample in own {
            for &other in &index.names_in[usize::from(sample)] {
                let together = &mut together[other as usize];
                if *together == 0 {
                    others.push(other);
                }
                *together += 1;
            }
        }
        for other in others.drain(..) {
            let both = std::mem::take(&mut together[other as usize]);
            if other as usize != name && can_share[other as usize] {
                let samples = own.len() + index.samples_of[other as usize].len();
                nearest.push(Similarity {
                    both,
                    either: samples as u32 - both,
                    name: other,
                });
            }
        }
        if nearest.len() > NEIGHBOURS {
            nearest.select_nth_unstable_by(NEIGHBOURS, Similarity::order);
            nearest.truncate(NEIGHBOURS);
        }
        let name = name as u32;
        let others = nearest.drain(..).map(|near| near.name);
        pairs.extend(others.map(|other| (name.min(other), name.max(other))));
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}
