//! Bodies that are sent: counted as they go, so that a stall is noticed.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::RemoteLimits;
use super::transport::SpoolUnreadable;

/// Bytes handed to the connection at once: small, so that a slow line shows progress.
const CHUNK: usize = 64 << 10;
/// Bytes of a file read at once, each a hop to the blocking threads.
const READ: usize = 512 << 10;

/// How far a request body is.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<(Instant, bool)>,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new((Instant::now(), false)),
        })
    }

    fn moved(&self, finished: bool) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), finished);
    }

    /// Ends when the body has stood still for too long, or the answer has not begun in time.
    pub(super) async fn stalled(&self, limits: &RemoteLimits) {
        loop {
            let (moved, finished) = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let allowed = if finished {
                limits.call_timeout
            } else {
                limits.stall_timeout
            };
            if moved.elapsed() >= allowed {
                return;
            }
            tokio::time::sleep_until(moved + allowed).await;
        }
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, SpoolUnreadable>> + Send + Sync>>;

/// A request body of known length.
pub(super) struct Sending {
    chunks: Chunks,
    left: u64,
    progress: Arc<Progress>,
}

impl Sending {
    /// A body that is in memory.
    pub(super) fn bytes(bytes: Vec<Bytes>, progress: Arc<Progress>) -> Self {
        let left = bytes.iter().map(|bytes| bytes.len() as u64).sum();
        let chunks = bytes.into_iter().flat_map(|mut rest| {
            std::iter::from_fn(move || {
                (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(CHUNK))))
            })
        });
        Self::new(Box::pin(stream::iter(chunks)), left, progress)
    }

    /// The first `size` bytes of a file, read as they are sent.
    pub(super) fn file(path: PathBuf, size: u64, progress: Arc<Progress>) -> Self {
        let blocks = stream::try_unfold((None, size), move |(file, left)| {
            let path = path.clone();
            async move {
                if left == 0 {
                    return Ok::<_, io::Error>(None);
                }
                let mut file = match file {
                    Some(file) => file,
                    None => tokio::fs::File::open(path).await?,
                };
                let block =
                    read_block(&mut file, READ.min(usize::try_from(left).unwrap_or(READ))).await?;
                let left = left - block.len() as u64;
                Ok(Some((block, (Some(file), left))))
            }
        });
        let chunks = blocks.flat_map(|block| {
            let (mut rest, error) = match block {
                Ok(block) => (block, None),
                Err(error) => (Bytes::new(), Some(Err(SpoolUnreadable(error.kind())))),
            };
            let pieces = std::iter::from_fn(move || {
                (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(CHUNK))))
            });
            stream::iter(pieces.chain(error))
        });
        Self::new(Box::pin(chunks), size, progress)
    }

    fn new(chunks: Chunks, left: u64, progress: Arc<Progress>) -> Self {
        progress.moved(left == 0);
        Self {
            chunks,
            left,
            progress,
        }
    }
}

/// Reads exactly `size` bytes.
pub(super) async fn read_block(file: &mut tokio::fs::File, size: usize) -> io::Result<Bytes> {
    let mut block = BytesMut::with_capacity(size);
    while block.len() < size {
        let missing = (size - block.len()) as u64;
        // `take`: a buffer may have more room than was asked for.
        if file.take(missing).read_buf(&mut block).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(block.freeze())
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = SpoolUnreadable;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, SpoolUnreadable>>> {
        let this = self.get_mut();
        let chunk = std::task::ready!(this.chunks.poll_next_unpin(context));
        if let Some(Ok(chunk)) = &chunk {
            this.left = this.left.saturating_sub(chunk.len() as u64);
        }
        this.progress.moved(this.left == 0);
        Poll::Ready(chunk.map(|chunk| chunk.map(http_body::Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}
