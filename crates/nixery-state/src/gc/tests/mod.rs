//! Garbage collections in example stores.

mod faults;
mod planning;
mod remembering;
mod sweeping;
