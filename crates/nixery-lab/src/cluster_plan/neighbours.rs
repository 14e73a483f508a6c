//! Candidate pairs: names whose samples are nearly the same.

use std::cmp::Ordering;

use super::presence::Presence;
use super::sample::CheckedSample;
use super::{NEIGHBOURS, Stage, Step};

/// How alike the samples of two names are: those with both, of those with one of them (Jaccard).
#[derive(Clone, Copy)]
struct Likeness {
    both: u32,
    either: u32,
    name: u32,
}

impl Likeness {
    /// The most alike first, ties by name.
    fn order(&self, other: &Self) -> Ordering {
        let scaled = |both: u32, either: u32| u64::from(both) * u64::from(either);
        scaled(other.both, self.either)
            .cmp(&scaled(self.both, other.either))
            .then(self.name.cmp(&other.name))
    }
}

/// Each name's 16 nearest, as pairs of a lesser and a greater name, sorted, each once.
///
/// Time is the sum over the samples of the square of their closures' sizes.
pub(super) fn candidates(
    checked: &CheckedSample<'_>,
    presence: &Presence,
    step: &mut Step<'_>,
) -> Vec<(u32, u32)> {
    let count = checked.names.len();
    let takes_part: Vec<bool> = (0..count)
        .map(|name| presence.takes_part(checked, name))
        .collect();
    let mut together = vec![0u32; count];
    let mut met: Vec<u32> = Vec::new();
    let mut nearest: Vec<Likeness> = Vec::new();
    let mut pairs = Vec::new();
    for name in (0..count).filter(|&name| takes_part[name]) {
        step.at(Stage::Neighbours, name, count);
        let own = &presence.samples_of[name];
        for &sample in own {
            for &other in &presence.names_in[usize::from(sample)] {
                let together = &mut together[other as usize];
                if *together == 0 {
                    met.push(other);
                }
                *together += 1;
            }
        }
        for other in met.drain(..) {
            let both = std::mem::take(&mut together[other as usize]);
            if other as usize != name && takes_part[other as usize] {
                let samples = own.len() + presence.samples_of[other as usize].len();
                nearest.push(Likeness {
                    both,
                    either: samples as u32 - both,
                    name: other,
                });
            }
        }
        if nearest.len() > NEIGHBOURS {
            nearest.select_nth_unstable_by(NEIGHBOURS, Likeness::order);
            nearest.truncate(NEIGHBOURS);
        }
        let name = name as u32;
        let found = nearest.drain(..).map(|near| near.name);
        pairs.extend(found.map(|other| (name.min(other), name.max(other))));
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}
