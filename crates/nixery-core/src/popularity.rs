//! Popularity of store paths.
