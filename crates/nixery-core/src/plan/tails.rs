//! What becomes of the layers that the budget has no place for: four tails.

use std::num::NonZeroUsize;

/// Tails at most.
pub(super) const TAILS: usize = 4;

/// How many of `all` layers stay as they are: all where they fit in beside the tails that are filled
/// anyway, else all but those whose places the tails need.
pub(super) fn kept(all: usize, filled: usize, budget: NonZeroUsize) -> usize {
    if all + filled <= budget.get() {
        all
    } else {
        budget.get().saturating_sub(TAILS)
    }
}

/// The tail for what would come into the given one, from 0. A budget below [`TAILS`] has as many tails, and
/// the last of them takes what would be in those behind it.
pub(super) fn tail(tail: usize, budget: NonZeroUsize) -> usize {
    tail.min(budget.get() - 1).min(TAILS - 1)
}
