//! An OCI registry that builds images from the packages their names list.
//!
//! The crate is the HTTP interface of [`nixery_builder`]. [`config`] has the settings, [`router`]
//! answers requests, and [`run`] runs the whole program. [`route`] maps paths to what they name,
//! and [`error`] maps errors to statuses.
//!
//! ```
//! use http::Method;
//! use nixery_server::config::{Arguments, Settings, table};
//! use nixery_server::route::Route;
//!
//! let arguments = Arguments::<Settings>::default()
//!     .with(table::PORT, "5000")
//!     .with(table::CHANNEL, "nixos-unstable");
//! let settings = arguments.settings()?;
//! assert_eq!(settings.server.port, 5000);
//! assert_eq!(settings.layering.budget.get(), 94);
//!
//! let route = Route::parse(&Method::GET, "/v2/shell/git/manifests/latest")?;
//! assert!(matches!(route, Route::Manifest { name, .. } if name.canonical() == "git/shell"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod access;
mod access_log;
mod api;
mod app;
mod arrival;
mod budget;
mod client;
pub mod collection;
mod connections;
pub mod delivery;
mod downloads;
pub mod error;
mod health;
mod host;
#[cfg(feature = "lab")]
pub mod learning;
pub mod limits;
pub mod listen;
mod log_queue;
mod logging;
mod long_build;
pub mod metrics;
mod negotiate;
mod page;
mod query;
mod range;
mod readiness;
mod reason;
mod redact;
mod response;
pub mod route;
mod run;
mod serving;
mod setup;
mod shutdown;
mod stalls;
mod state;
mod text;
pub mod tls;
#[cfg(feature = "lab")]
pub mod traffic;

/// The settings. [`config::HttpSettings`] are those of request handlers.
pub use nixery_config as config;

pub use app::router;
pub use long_build::MAX_HOLDS;
pub use readiness::Readiness;
pub use run::{RunError, check, run};
pub use setup::StateError;
pub use state::AppState;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
