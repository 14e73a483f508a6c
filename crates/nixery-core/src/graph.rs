//! Reference graphs.
