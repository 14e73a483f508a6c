//! Looks up the nodes of paths.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::NodeId;

/// The number of paths that are looked up together.
const TOGETHER: usize = 64;

/// The nodes of a graph's paths, by text.
///
/// A large graph's paths do not fit in the processor's caches, and each reference is looked up, so
/// most of the time is spent waiting for memory. Therefore the table is small, the texts are close
/// together, and look-ups come in lists, so that their waits overlap. The hashes are seeded at
/// random, so no input made beforehand makes many paths collide.
pub(super) struct PathIndex<'a> {
    text: &'a str,
    slots: HashTable<Slot>,
    hasher: DefaultHashBuilder,
}

#[derive(Clone, Copy)]
struct Slot {
    start: u32,
    end: u32,
    id: NodeId,
}

impl<'a> PathIndex<'a> {
    /// Numbers distinct parts of a text in their order; there are fewer than 2^32.
    pub(super) fn new(text: &'a str, paths: impl ExactSizeIterator<Item = Range<u32>>) -> Self {
        let hasher = DefaultHashBuilder::default();
        let mut slots = HashTable::with_capacity(paths.len());
        for (place, Range { start, end }) in (0u32..).zip(paths) {
            let id = NodeId::new(place);
            let slot = Slot { start, end, id };
            let hash_of = |slot: &Slot| hash(&hasher, part(text, slot));
            slots.insert_unique(hash_of(&slot), slot, hash_of);
        }
        Self {
            text,
            slots,
            hasher,
        }
    }

    pub(super) fn find(&self, path: &str) -> Option<NodeId> {
        let same = |slot: &Slot| part(self.text, slot) == path;
        let found = self.slots.find(hash(&self.hasher, path), same);
        found.map(|slot| slot.id)
    }

    /// Returns the nodes of the paths. The error is the position of the first path without one.
    pub(super) fn find_all<'p, P: Copy>(
        &self,
        paths: &[P],
        text: impl Fn(P) -> &'p str,
    ) -> Result<Vec<NodeId>, usize> {
        let mut found = Vec::with_capacity(paths.len());
        let mut likely = [None; TOGETHER];
        for paths in paths.chunks(TOGETHER) {
            for (&path, likely) in paths.iter().zip(&mut likely) {
                // A hash is rarely not its path's.
                let hash = hash(&self.hasher, text(path));
                *likely = self.slots.find(hash, |_| true).copied();
            }
            for (&path, likely) in paths.iter().zip(likely) {
                let path = text(path);
                let right = likely.filter(|slot| part(self.text, slot) == path);
                let id = right.map(|slot| slot.id).or_else(|| self.find(path));
                found.push(id.ok_or(found.len())?);
            }
        }
        Ok(found)
    }
}

fn part<'t>(text: &'t str, slot: &Slot) -> &'t str {
    &text[slot.start as usize..slot.end as usize]
}

fn hash(hasher: &DefaultHashBuilder, path: &str) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(path.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let paths: Vec<String> = (0..1000).map(|i| format!("/{i}")).collect();
        let text = paths.concat();
        let mut end = 0;
        let index = PathIndex::new(
            &text,
            paths.iter().map(|path| {
                let start = end;
                end += path.len() as u32;
                start..end
            }),
        );
        let all: Vec<&str> = paths.iter().chain(&paths).map(String::as_str).collect();
        let found = index.find_all(&all, |path| path).unwrap();
        assert!(
            found
                .into_iter()
                .eq((0..1000).chain(0..1000).map(NodeId::new))
        );
        for (i, path) in (0..).zip(&paths) {
            assert_eq!(index.find(path), Some(NodeId::new(i)));
        }
        for other in ["", "/", "/1000", "/1/", "0"] {
            assert_eq!(index.find(other), None, "{other}");
            assert_eq!(
                index.find_all(&["/1", other, "none"], |path| path),
                Err(1),
                "{other}"
            );
        }
        assert_eq!(index.find_all(&[""; 0], |path| path), Ok(Vec::new()));
    }
}
