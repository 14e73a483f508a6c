//! Collections of garbage in made-up stores.

mod faults;
mod planning;
mod remembering;
mod sweeping;
