//! Reading an image's blobs, hashed on the way, on a thread that may block.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::TryStreamExt;
use nixery_manifest::{Digest, Digester};
use nixery_storage::{Key, Storage, StorageError};
use tokio::runtime::Handle;

use super::{ExportError, file_error};

/// The store as the writing thread sees it.
pub(super) struct Blobs {
    storage: Arc<dyn Storage>,
    runtime: Handle,
    cancelled: Arc<AtomicBool>,
    progress: Box<dyn FnMut(u64) + Send>,
}

impl Blobs {
    /// Copies the blob to `out`; `path` is where `out` writes to, for errors.
    pub(super) fn copy(
        &mut self,
        digest: &Digest,
        size: u64,
        out: &mut dyn Write,
        path: &Path,
    ) -> Result<(), ExportError> {
        let key = Key::blob(*digest);
        let reader = self
            .runtime
            .block_on(self.storage.get(&key, None))
            .map_err(ExportError::Storage)?;
        let mut reader = reader.ok_or(ExportError::MissingBlob { digest: *digest })?;
        if reader.stat.size != size {
            return Err(ExportError::Storage(StorageError::Truncated {
                backend: self.storage.backend(),
                target: key.to_string(),
                expected: size,
                actual: reader.stat.size,
            }));
        }
        let mut digester = Digester::new();
        while let Some(chunk) = self
            .runtime
            .block_on(reader.body.try_next())
            .map_err(ExportError::Storage)?
        {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(ExportError::Cancelled);
            }
            digester.update(&chunk);
            out.write_all(&chunk).map_err(file_error("write", path))?;
            (self.progress)(chunk.len() as u64);
        }
        let actual = digester.finish();
        if actual != *digest {
            return Err(ExportError::CorruptBlob {
                digest: *digest,
                actual,
            });
        }
        Ok(())
    }

    /// Counts a blob that needs no copying.
    pub(super) fn skip(&mut self, size: u64) {
        (self.progress)(size);
    }
}

/// Runs `write` on a blocking thread. When the future is dropped, `write` stops at its next chunk.
pub(super) async fn on_thread<T: Send + 'static>(
    storage: &Arc<dyn Storage>,
    progress: impl FnMut(u64) + Send + 'static,
    path: &Path,
    write: impl FnOnce(Blobs) -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    struct CancelOnDrop(Arc<AtomicBool>);
    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let guard = CancelOnDrop(Arc::default());
    let blobs = Blobs {
        storage: Arc::clone(storage),
        runtime: Handle::current(),
        cancelled: Arc::clone(&guard.0),
        progress: Box::new(progress),
    };
    tokio::task::spawn_blocking(move || write(blobs))
        .await
        .unwrap_or_else(|error| Err(file_error("write", path)(io::Error::other(error))))
}
