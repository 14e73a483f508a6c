//! Sets of names: the closures of clusters.

/// A set of small numbers: the 64-bit words of a bitmap that are not empty.
///
/// It takes at most 12 bytes for every 64 names, and a few hundred bytes for a usual closure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NameSet {
    /// Places of the words in the bitmap, ascending.
    places: Vec<u32>,
    words: Vec<u64>,
}

impl NameSet {
    /// Creates a set of ascending numbers.
    pub(super) fn from_sorted(names: impl IntoIterator<Item = u32>) -> Self {
        let mut set = Self::default();
        for name in names {
            set.or(name / 64, 1 << (name % 64));
        }
        set.places.shrink_to_fit();
        set.words.shrink_to_fit();
        set
    }

    /// Adds bits at `place`, which is not before the last one.
    fn or(&mut self, place: u32, bits: u64) {
        match (self.places.last(), self.words.last_mut()) {
            (Some(&last), Some(word)) if last == place => *word |= bits,
            _ => {
                self.places.push(place);
                self.words.push(bits);
            }
        }
    }

    /// Number of names.
    pub(super) fn len(&self) -> usize {
        let bits = self.words.iter().map(|word| word.count_ones() as usize);
        bits.sum()
    }

    /// Returns the union of both sets.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = Self::default();
        self.merge(other, |place, bits| union.or(place, bits));
        union
    }

    /// Number of names in the union of both sets.
    pub(super) fn union_len(&self, other: &Self) -> usize {
        let mut count = 0;
        self.merge(other, |_, bits| count += bits.count_ones() as usize);
        count
    }

    /// Calls `each` with every place of the union and its bits, ascending.
    fn merge(&self, other: &Self, mut each: impl FnMut(u32, u64)) {
        let (mut a, mut b) = (0, 0);
        while let (Some(&left), Some(&right)) = (self.places.get(a), other.places.get(b)) {
            let mut bits = 0;
            if left <= right {
                bits |= self.words[a];
                a += 1;
            }
            if right <= left {
                bits |= other.words[b];
                b += 1;
            }
            each(left.min(right), bits);
        }
        for (set, from) in [(self, a), (other, b)] {
            for at in from..set.places.len() {
                each(set.places[at], set.words[at]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(a in prop::collection::btree_set(0..500u32, 0..60), b in prop::collection::btree_set(0..500u32, 0..60)) {
            let (left, right) = (NameSet::from_sorted(a.iter().copied()), NameSet::from_sorted(b.iter().copied()));
            let union: BTreeSet<u32> = a.union(&b).copied().collect();
            prop_assert_eq!(left.len(), a.len());
            prop_assert_eq!(left.union_len(&right), union.len());
            prop_assert_eq!(left.union(&right), NameSet::from_sorted(union));
        }
    }
}
