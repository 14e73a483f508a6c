//! The original's cache keys, for migration and comparison.
