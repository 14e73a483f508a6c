//! Numbering of items.

use std::collections::HashMap;
use std::hash::Hash;

/// Returns the number of an item. Numbers are in the order in which the items first occur.
pub(crate) fn number<T: Eq + Hash>(numbers: &mut HashMap<T, u64>, item: T) -> u64 {
    let next = numbers.len() as u64;
    *numbers.entry(item).or_insert(next)
}
