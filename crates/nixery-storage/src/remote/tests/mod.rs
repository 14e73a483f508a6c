//! Tests with faults on the wire.

mod manners;
mod opening;
mod reading;
mod server;
mod writing;

use nixery_manifest::Digest;
use tempfile::NamedTempFile;

use crate::Key;

fn blob(bytes: &[u8]) -> Key {
    Key::blob(Digest::of(bytes))
}

/// The object's name in the test server.
fn name(key: &Key) -> String {
    format!("a/b/{}", key.path())
}

fn spool(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut file, bytes).expect("a file");
    file
}

/// Bytes without a repeated block.
fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}
