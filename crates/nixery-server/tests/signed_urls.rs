//! No log shows a signed URL. A program of its own: the log's subscriber must be there before any
//! other test has passed a log line.

// The leave that clippy.toml gives to tests ends at their helper functions; not all helpers are of
// use here.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

#[path = "http/fake_nix.rs"]
mod fake_nix;
#[path = "http/fake_store.rs"]
mod fake_store;
#[path = "http/registry.rs"]
mod registry;

use std::io;
use std::sync::{Arc, Mutex};

use fake_store::{FakeStore, SECRET};
use http::Method;
use nixery_manifest::Digest;
use nixery_server::config::HttpSettings;
use registry::{Registry, request};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_shows_a_signed_url() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let store = Arc::new(FakeStore::signing());
    let registry = Registry::over(store.clone(), HttpSettings::default(), |_| {}).await;
    let bytes = b"layer ".repeat(40_000);
    let digest = Digest::of(&bytes);
    store.blob(digest, bytes).await;
    let path = format!("/v2/git/blobs/{digest}");
    let response = registry.response(request(Method::GET, &path, &[])).await;
    assert_eq!(response.status(), 307);
    assert!(!format!("{:?}", response.headers()).contains(SECRET));
    drop(response);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("307"), "the request is logged: {text}");
    assert!(!text.contains(SECRET), "{text}");
}
