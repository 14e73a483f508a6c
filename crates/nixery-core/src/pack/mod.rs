//! Layer packing.
