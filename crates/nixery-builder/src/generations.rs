//! A map that forgets what has not been looked at for long, so that its memory is bounded.

use std::collections::HashMap;
use std::hash::Hash;

/// Entries per generation; with a digest as the key about 100 bytes each.
pub(crate) const GENERATION: usize = 100_000;

/// Two generations: when the newer is full it becomes the older one and the older is forgotten, so
/// memory is bounded and what is used stays.
#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    newer: HashMap<K, V>,
    older: HashMap<K, V>,
}

impl<K, V> Default for Generations<K, V> {
    fn default() -> Self {
        Self {
            newer: HashMap::new(),
            older: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash + Copy, V: Copy> Generations<K, V> {
    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.newer.get(key) {
            return Some(*value);
        }
        let value = self.older.remove(key)?;
        self.insert(*key, value);
        Some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.newer.len() >= GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.newer.remove(key);
        self.older.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut map = Generations::default();
        map.insert(usize::MAX, ());
        for n in 0..5 * GENERATION {
            map.insert(n, ());
            if n % (GENERATION / 4) == 0 {
                assert!(map.get(&usize::MAX).is_some(), "{n}");
            }
        }
        assert!(map.newer.len() + map.older.len() <= 2 * GENERATION);
        map.remove(&usize::MAX);
        assert!(map.get(&usize::MAX).is_none());
    }
}
