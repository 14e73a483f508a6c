//! The contracts of [`Storage`], as tests for every backend.
//!
//! Each function tests one contract, and panics where a backend breaks it. [`all`] runs all of
//! them, [`Run`] all except some; both name the contract that is broken. The contracts use keys of
//! their own and delete their objects, so they can run against a store in use.
//!
//! ```
//! use nixery_storage::{MemoryStorage, conformance};
//! # #[tokio::main] async fn main() {
//! conformance::all(&MemoryStorage::new()).await;
//! # }
//! ```

use std::io::Write;

use bytes::Bytes;
use futures::TryStreamExt;
use nixery_manifest::Digest;
use tempfile::NamedTempFile;

use crate::{ByteRange, Contents, Entry, Folder, Key, PutMode, PutOutcome, Storage};

mod listing;
mod reading;
mod run;
mod sharing;
mod writing;

#[cfg(test)]
mod tests;

pub use listing::*;
pub use reading::*;
pub use run::{CONTRACTS, Report, Run};
pub use sharing::*;
pub use writing::*;

/// Two folders with entries. The garbage collector deletes what a broken run leaves in them.
const ENTRIES: Folder = Folder::new("builds", Contents::Json);
const OTHER_ENTRIES: Folder = Folder::new("manifests", Contents::Json);

/// Larger than any backend's chunk, and not a multiple of one.
const LARGE: usize = 1_500_007;

/// Runs all contracts, one after another.
///
/// # Panics
/// The store breaks a contract. The message names it and describes the failure.
pub async fn all(storage: &dyn Storage) {
    let _ = Run::new(storage).run().await;
}

/// A blob of `size` bytes that no other contract uses.
fn blob(contract: &str, size: usize) -> (Key, Bytes) {
    let seed = digest(contract);
    let mut bytes = Vec::with_capacity(size + 32);
    let mut block = seed;
    while bytes.len() < size {
        bytes.extend_from_slice(block.as_bytes());
        block = Digest::of(block.as_bytes());
    }
    bytes.truncate(size);
    (Key::blob(Digest::of(&bytes)), bytes.into())
}

fn cache_key(contract: &str) -> Key {
    Key::new(ENTRIES, digest(contract))
}

fn digest(contract: &str) -> Digest {
    Digest::of(format!("conformance: {contract}").as_bytes())
}

fn spool(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a spool file");
    file.write_all(bytes).expect("a spool file");
    file
}

async fn put(storage: &dyn Storage, key: &Key, bytes: Bytes) {
    let outcome = storage
        .put(key, bytes, PutMode::Replace)
        .await
        .expect("put");
    assert_eq!(outcome, PutOutcome::Stored);
}

async fn read(storage: &dyn Storage, key: &Key) -> Bytes {
    let reader = storage.get(key, None).await.expect("get").expect("exists");
    assert_eq!(reader.range, ByteRange::new(0, reader.stat.size));
    reader.bytes().await.expect("body")
}

async fn list(storage: &dyn Storage, folder: Folder) -> Vec<Entry> {
    let listing = storage.list(folder).await.expect("list");
    listing.try_collect().await.expect("entries")
}

async fn delete(storage: &dyn Storage, key: &Key) {
    assert!(
        storage.delete(key).await.expect("delete"),
        "{key} was not there"
    );
}
