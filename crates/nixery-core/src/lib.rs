//! Image names, Nix reference graphs, layer planning and deterministic layer packing.

pub mod arch;
pub mod compat;
pub mod draw;
pub mod graph;
pub mod key;
pub mod meta;
pub mod name;
pub mod nar_hash;
pub mod pack;
pub mod plan;
pub mod popularity;
pub mod source;
pub mod store_path;
pub mod tag;

// Every public type is also reachable from the crate's root.
#[allow(unused_imports)]
mod reexports {
    pub use crate::arch::*;
    pub use crate::compat::*;
    pub use crate::draw::*;
    pub use crate::graph::*;
    pub use crate::key::*;
    pub use crate::meta::*;
    pub use crate::name::*;
    pub use crate::nar_hash::*;
    pub use crate::pack::*;
    pub use crate::plan::*;
    pub use crate::popularity::*;
    pub use crate::source::*;
    pub use crate::store_path::*;
    pub use crate::tag::*;
}
#[allow(unused_imports)]
pub use reexports::*;
