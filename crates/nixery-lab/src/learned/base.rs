//! When another plan is due: the base of the newest images determines it.

use std::cmp::Reverse;
use std::collections::HashMap;

use nixery_core::{ReferenceGraph, StorePath};

/// How many images depend on a path, in order of significance: images in which another path refers
/// to it, images that contain it, its largest NAR size.
type Weight = (u32, u32, u64);

/// Returns the path that most of these images depend on: usually glibc. Of several the one with the
/// largest NAR, then the first by name. `None` without paths.
///
/// An image depends on a path, in this sense, if another path of the image refers to it: a path that
/// is in every image for itself, such as iana-etc, outlives a glibc. Such paths count only if there
/// are no others.
pub(super) fn base<'a>(images: impl IntoIterator<Item = &'a ReferenceGraph>) -> Option<StorePath> {
    let mut weights: HashMap<&StorePath, Weight> = HashMap::new();
    for image in images {
        let mut is_referred = vec![false; image.len()];
        for path in image.ids() {
            for reference in image.references(path) {
                is_referred[reference.index()] = true;
            }
        }
        for (node, is_referred) in image.nodes().iter().zip(is_referred) {
            let (referring, containing, nar_size) = weights.entry(&node.path).or_default();
            *referring += u32::from(is_referred);
            *containing += 1;
            *nar_size = node.nar_size.max(*nar_size);
        }
    }
    let weights = weights.into_iter();
    let base = weights.max_by_key(|&(path, weight)| (weight, Reverse((path.name(), path))));
    base.map(|(path, _)| path.clone())
}

/// Returns whether a plan that was made for `known` is to be replaced by one for `base`: fewer than
/// a quarter as many of these images depend on `known`. If several bases are in use, of several
/// architectures or of old commits that are still requested, plans for them do not alternate.
pub(super) fn is_due(known: &StorePath, base: &StorePath, images: &[&ReferenceGraph]) -> bool {
    let dependent_images = |base: &StorePath| {
        let depends = |image: &&&ReferenceGraph| {
            let base = image.id_of(base);
            base.is_some_and(|base| {
                image
                    .ids()
                    .any(|path| image.references(path).contains(&base))
            })
        };
        images.iter().filter(depends).count()
    };
    dependent_images(known) * 4 < dependent_images(base)
}
