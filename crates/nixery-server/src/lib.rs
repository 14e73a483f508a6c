//! An OCI registry that builds images from the packages their names list.
//!
//! The crate is HTTP over [`nixery_builder`]: [`config`] holds the settings and turns them
//! into a store, Nix and a builder, [`router`] answers requests, and [`run`] is the whole
//! program. [`route`] says which request names what, [`error`] which error gets which status.
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

mod access_log;
mod api;
mod app;
pub mod collection;
pub mod delivery;
pub mod error;
mod health;
mod hold;
pub mod host;
mod json_lines;
pub mod learning;
pub mod listen;
mod log_queue;
pub mod logging;
pub mod metrics;
pub mod negotiate;
mod page;
mod query;
pub mod range;
mod redact;
mod response;
pub mod route;
mod run;
mod setup;
mod shutdown;
mod stall;
mod state;
mod text;
pub mod traffic;

/// The settings, of which [`config::HttpSettings`] are those of request handlers.
pub use nixery_config as config;

pub use app::router;
pub use health::Readiness;
pub use hold::MOST_HOLDS;
pub use run::{RunError, check, run};
pub use setup::StateError;
pub use state::AppState;

/// An error with its sources, as one text: what to print when the program ends because of it.
#[must_use]
pub fn explain(error: &dyn std::error::Error) -> String {
    api::chain(error)
}
