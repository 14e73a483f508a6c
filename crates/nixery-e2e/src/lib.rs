//! What the end-to-end tests share: a registry process on a scratch store, and the real clients
//! that pull from it.
//!
//! The tests live in `tests/` and are `#[ignore]`d, because they need Nix, the demo package set and
//! OCI clients: `make test` installs those and runs them with `--include-ignored`.
//!
//! ```no_run
//! use nixery_e2e::{Registry, http};
//! let registry = Registry::on_demo_set();
//! assert_eq!(http::get(&registry.url("/v2/")).status, 200);
//! ```

pub mod build;
pub mod clients;
pub mod command;
mod count;
mod docker;
pub mod engines;
mod fault_proxy;
pub mod http;
mod image;
pub mod layering;
mod login;
mod proxy;
mod pull;
mod registry;
pub mod tree;

pub use count::NixCalls;
pub use docker::Docker;
pub use fault_proxy::{Fault, FaultProxy};
pub use image::Layout;
pub use login::{LoginClient, Transport};
pub use proxy::HeaderLimitProxy;
pub use pull::{blobs_of, digest_of, pull_checked};
pub use registry::{Registry, RegistryOptions};

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The README, so that its example is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate lies two folders below the root")
        .to_path_buf()
}

/// The demo package set that `scripts/demo-set` makes.
///
/// # Panics
/// The set was not made: the tests' own set-up was skipped.
pub fn demo_set() -> PathBuf {
    made(checkout().join("target/demo/set"))
}

/// The demo set with the awkward packages of `nix/demo/test-packages.nix`.
///
/// # Panics
/// The set was not made: the tests' own set-up was skipped.
pub fn test_set() -> PathBuf {
    made(checkout().join("target/demo/test-set"))
}

fn made(set: PathBuf) -> PathBuf {
    assert!(
        set.join("default.nix").exists(),
        "{} is missing: run `make test`, or `scripts/demo-set` first",
        set.display()
    );
    set
}

/// A program of this workspace, built beside the running test.
///
/// # Panics
/// It was not built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    let directory = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/<profile>/deps");
    let path = directory.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bins` first",
        path.display()
    );
    path
}

/// A TCP port of the loopback address that was free a moment ago.
///
/// # Panics
/// No port is left.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// Returns once the condition holds.
///
/// # Panics
/// It does not hold within a minute.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
