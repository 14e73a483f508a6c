//! Package sources: where the package set comes from.
