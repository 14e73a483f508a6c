//! Reads an image's blobs on a thread that may block, and verifies them on the way.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use nixery_manifest::{Digest, Digester};
use nixery_storage::{Key, Storage, StorageError};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{ExportError, file_error};

/// The store, for the thread that writes.
pub(super) struct BlobSource {
    storage: Arc<dyn Storage>,
    runtime: Handle,
    cancelled: CancellationToken,
    progress: Box<dyn FnMut(u64) + Send>,
}

impl BlobSource {
    /// Copies the blob to `out`; `path` is the file behind `out`, for errors.
    pub(super) fn copy(
        &mut self,
        digest: &Digest,
        size: u64,
        out: &mut dyn Write,
        path: &Path,
    ) -> Result<(), ExportError> {
        let key = Key::blob(*digest);
        let reader = self.runtime.block_on(self.storage.get(&key, None));
        let reader = reader.map_err(ExportError::Storage)?;
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
        loop {
            let chunk = self.runtime.block_on(reader.body.try_next());
            let Some(chunk) = chunk.map_err(ExportError::Storage)? else {
                break;
            };
            if self.cancelled.is_cancelled() {
                return Err(ExportError::Cancelled);
            }
            digester.update(&chunk);
            out.write_all(&chunk).map_err(file_error("write", path))?;
            self.report(chunk.len() as u64);
        }
        let (digest, actual) = (*digest, digester.finish());
        if actual != digest {
            return Err(ExportError::CorruptBlob { digest, actual });
        }
        Ok(())
    }

    /// Reports bytes that were written, or that need no writing.
    pub(super) fn report(&mut self, bytes: u64) {
        (self.progress)(bytes);
    }
}

/// Runs `write` on a blocking thread. When the future is dropped, `write` stops at its next chunk.
pub(super) async fn on_thread<T: Send + 'static>(
    storage: &Arc<dyn Storage>,
    progress: impl FnMut(u64) + Send + 'static,
    path: &Path,
    write: impl FnOnce(BlobSource) -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    let cancelled = CancellationToken::new();
    let source = BlobSource {
        storage: Arc::clone(storage),
        runtime: Handle::current(),
        cancelled: cancelled.clone(),
        progress: Box::new(progress),
    };
    let _cancel_on_drop = cancelled.drop_guard();
    tokio::task::spawn_blocking(move || write(source))
        .await
        .unwrap_or_else(|error| Err(file_error("write", path)(io::Error::other(error))))
}
