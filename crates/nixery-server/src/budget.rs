//! A number of bytes with a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes, and its limit.
#[derive(Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl Budget {
    /// Returns a budget that counts in `used`, which several budgets may share.
    pub(crate) fn new(used: Arc<AtomicUsize>, limit: usize) -> Self {
        Self { used, limit }
    }

    /// Returns the limit.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Adds bytes, unless there are too many then.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        self.take_up_to(self.limit, bytes)
    }

    /// Adds bytes, up to twice the limit.
    pub(crate) fn take_twice(&self, bytes: usize) -> bool {
        self.take_up_to(self.limit.saturating_mul(2), bytes)
    }

    fn take_up_to(&self, limit: usize, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = used.saturating_add(bytes) <= limit;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    /// Returns the bytes that were added and not given back.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Subtracts bytes that were added.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
