//! An OCI registry that builds images from the packages their names list.
//!
//! The crate is HTTP and configuration over [`nixery_builder`]: [`Config`] holds the flags and
//! variables, [`setup`] turns them into a store, Nix and a builder, [`router`] answers requests,
//! and [`run`] is the whole program. [`route`] says which request names what, [`error`] which error
//! gets which status.
//!
//! ```
//! use http::Method;
//! use nixery_server::Config;
//! use nixery_server::route::Route;
//!
//! let mut config = Config::default();
//! config.server.port = Some("5000".into());
//! config.source.channel = Some("nixos-unstable".into());
//! let settings = config.settings()?;
//! assert_eq!(settings.server.port, 5000);
//! assert_eq!(settings.layering.budget.get(), 94);
//!
//! let route = Route::parse(&Method::GET, "/v2/shell/git/manifests/latest")?;
//! assert!(matches!(route, Route::Manifest { name, .. } if name.canonical() == "git/shell"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access_log;
mod api;
mod app;
pub mod collection;
pub mod config;
pub mod delivery;
pub mod error;
mod health;
pub mod host;
pub mod learning;
pub mod listen;
mod log_queue;
pub mod logging;
mod long_build;
pub mod metrics;
pub mod negotiate;
mod page;
mod query;
pub mod range;
mod readiness;
mod redact;
mod response;
pub mod route;
mod run;
pub mod setup;
mod shutdown;
mod state;
mod text;
pub mod traffic;

pub use app::router;
pub use config::Config;
pub use long_build::MAX_HOLDS;
pub use readiness::Readiness;
pub use run::{RunError, run};
pub use state::AppState;
pub use text::explain;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
