//! Who sends a request to a registry, and which images they may pull.
//!
//! The crate is synchronous and has neither network nor HTTP: a server hands it the contents of
//! files and headers, and asks it for decisions.
//!
//! - [`PasswordFile`] and [`TokenFile`] are lists of users that operators write.
//! - [`TokenRules`] verifies tokens that another service has signed, by the keys of a [`KeySet`].
//!   [`Issuer`] signs tokens itself. [`ResourceScope`] is what a client asks a token for.
//! - All of them lead to an [`Identity`].

mod file_errors;
mod htpasswd;
mod identity;
mod issuer;
mod jwt;
mod key_set;
mod lines;
mod policy;
mod scope;
#[cfg(test)]
mod testing;
mod tokens;

pub use file_errors::{FileError, FileErrors};
pub use htpasswd::PasswordFile;
pub use identity::{Identity, TokenScope};
pub use issuer::{Issuer, IssuerError};
pub use jwt::{LONGEST_TOKEN_BYTES, TokenError, TokenRules, VerifiedToken};
pub use key_set::{KeySet, KeySetError};
pub use policy::{Allowance, Denial, Policy, PolicyRequest};
pub use scope::{ResourceScope, ScopeError};
pub use tokens::TokenFile;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
