//! When it is time for another plan: decided by the path that everything stands on.

use std::cmp::Reverse;
use std::collections::HashMap;

use nixery_core::{ReferenceGraph, StorePath};

/// How much stands on a path; more is greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Weight {
    /// Images in which something refers to it.
    referred: u32,
    /// Images that hold it.
    held: u32,
    nar_size: u64,
}

/// The path that most of these images hold: glibc, as a rule. Of several the one with the largest NAR, then the
/// first by name. `None` where there is none.
///
/// An image holds a path, in this sense, if something in it refers to the path: what stands in every image
/// for itself, as iana-etc does, outlives a glibc. If there is nothing else, it counts.
pub(super) fn base<'a>(images: impl IntoIterator<Item = &'a ReferenceGraph>) -> Option<StorePath> {
    let mut weights: HashMap<&StorePath, Weight> = HashMap::new();
    for image in images {
        let mut referred = vec![false; image.len()];
        for path in image.ids() {
            for reference in image.references(path) {
                referred[reference.index()] = true;
            }
        }
        for (node, referred) in image.nodes().iter().zip(referred) {
            let weight = weights.entry(&node.path).or_default();
            weight.referred += u32::from(referred);
            weight.held += 1;
            weight.nar_size = node.nar_size.max(weight.nar_size);
        }
    }
    let most = weights
        .into_iter()
        .max_by_key(|&(path, weight)| (weight, Reverse((path.name(), path))));
    most.map(|(path, _)| path.clone())
}

/// Whether a plan that was made for `known` is to be replaced by one for `base`: hardly any of these images stand on
/// it any more, fewer than a quarter of those that stand on the other. So bases that are all among the
/// newest images, of several architectures or of old commits that are still asked for, do not take turns.
pub(super) fn is_due(known: &StorePath, base: &StorePath, images: &[&ReferenceGraph]) -> bool {
    let standing_on = |base: &StorePath| {
        let stands = |image: &&&ReferenceGraph| match image.id_of(base) {
            Some(base) => image
                .ids()
                .any(|path| image.references(path).contains(&base)),
            None => false,
        };
        images.iter().filter(stands).count()
    };
    standing_on(known) * 4 < standing_on(base)
}
