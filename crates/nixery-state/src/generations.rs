//! A map that forgets what has not been looked at for long, so that its memory is bounded.

use std::collections::HashMap;
use std::hash::Hash;

/// Entries per generation; with a digest as the key about 100 bytes each.
pub const GENERATION: usize = 100_000;

/// Two generations: when the newer is full it becomes the older one and the older is forgotten, so
/// memory is bounded and what is used stays.
#[derive(Debug)]
pub struct Generations<K, V> {
    newer: HashMap<K, Weighed<V>>,
    older: HashMap<K, Weighed<V>>,
    /// What a generation may weigh, and what the newer one does.
    limit: usize,
    filled: usize,
}

#[derive(Debug)]
struct Weighed<V> {
    value: V,
    weight: usize,
}

/// Of [`GENERATION`] entries that weigh 1.
impl<K, V> Default for Generations<K, V> {
    fn default() -> Self {
        Self::new(GENERATION)
    }
}

impl<K, V> Generations<K, V> {
    /// Of generations that may weigh so much.
    pub fn new(limit: usize) -> Self {
        Self {
            newer: HashMap::new(),
            older: HashMap::new(),
            limit,
            filled: 0,
        }
    }
}

impl<K: Eq + Hash + Clone, V> Generations<K, V> {
    /// What `read` makes of the value. It may change it.
    pub fn with<R>(&mut self, key: &K, read: impl FnOnce(&mut V) -> R) -> Option<R> {
        if let Some(weighed) = self.newer.get_mut(key) {
            return Some(read(&mut weighed.value));
        }
        let Weighed { mut value, weight } = self.older.remove(key)?;
        let result = read(&mut value);
        self.insert_weighing(key.clone(), value, weight);
        Some(result)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.insert_weighing(key, value, 1);
    }

    /// One that alone weighs more than a generation may is kept as well.
    pub fn insert_weighing(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        if self.filled + weight > self.limit {
            self.older = std::mem::take(&mut self.newer);
            self.filled = 0;
        }
        self.filled += weight;
        self.newer.insert(key, Weighed { value, weight });
    }

    pub fn remove(&mut self, key: &K) {
        if let Some(removed) = self.newer.remove(key) {
            self.filled -= removed.weight;
        }
        self.older.remove(key);
    }

    /// All values, in no particular order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let all = self.newer.values_mut().chain(self.older.values_mut());
        all.map(|weighed| &mut weighed.value)
    }
}

impl<K: Eq + Hash + Clone, V: Copy> Generations<K, V> {
    pub fn get(&mut self, key: &K) -> Option<V> {
        self.with(key, |value| *value)
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

    #[test]
    fn weights_count_and_what_is_replaced_or_removed_does_not() {
        let mut map = Generations::new(10);
        map.insert_weighing("kept", 0, 4);
        for value in 0..100 {
            map.insert_weighing("replaced", value, 5);
            map.insert_weighing("removed", value, 1);
            map.remove(&"removed");
        }
        assert_eq!((map.newer.len(), map.older.len()), (2, 0));
        map.insert_weighing("large", 1, 1000);
        assert_eq!((map.newer.len(), map.older.len()), (1, 2));
        assert_eq!(map.get(&"kept"), Some(0), "moved, and the large one aged");
        assert_eq!(map.get(&"large"), Some(1));
        assert_eq!(map.get(&"replaced"), None);
    }
}
