//! Layer planning.
