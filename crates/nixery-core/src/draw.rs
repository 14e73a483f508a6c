//! Layer plans as pictures and tables.
