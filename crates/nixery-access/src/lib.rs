//! Who sends a request to a registry, and which images they may pull.
//!
//! The crate is synchronous and has neither network nor HTTP: a server hands it the contents of
//! files and headers, and asks it for decisions.

mod file_errors;
mod identity;
mod policy;

pub use file_errors::{FileError, FileErrors};
pub use identity::{Identity, TokenScope};
pub use policy::{Allowance, Denial, Policy, PolicyRequest};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
