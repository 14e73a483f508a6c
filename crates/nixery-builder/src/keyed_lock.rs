//! One lock per key, created when it is needed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// A lock for each key.
#[derive(Debug)]
pub(crate) struct KeyedLocks<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> KeyedLocks<K> {
    /// Waits for the lock of the key.
    pub(crate) async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        self.get(key).lock_owned().await
    }

    /// Returns the lock of the key, unless a task holds it.
    pub(crate) fn try_lock(&self, key: K) -> Option<OwnedMutexGuard<()>> {
        self.get(key).try_lock_owned().ok()
    }

    fn get(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Drops locks that no task holds or waits for: only this map has them.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_locked_once_and_unused_locks_are_dropped() {
        let locks = Arc::new(KeyedLocks::default());
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        assert!(locks.try_lock("a").is_none());
        let second = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.lock("a").await) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.expect("gets it");
        assert!(locks.try_lock("a").is_some());
        drop(locks.lock("c").await);
        assert!(locks.0.lock().expect("not poisoned").len() <= 2);
    }
}
