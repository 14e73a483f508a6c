//! Ends responses that their clients do not take.
//!
//! A client that stops reading holds what is being sent to it: memory, an open file, a place among
//! the downloads. Two timers bound that. Both run only while the server waits for the client.
//!
//! - [`StallTimeout`] fails the connection when the system takes too few bytes of it.
//! - [`Streams`] resets a response of HTTP/2 when the client opens no window for it. The other
//!   responses of the connection continue.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::connections::{Connection, Refusal, Running, UnsentBytes};

/// Bytes that a client must take within the time limit.
const LEAST_BYTES: usize = 16 * 1024;

/// A connection whose writing fails when the client takes less than [`LEAST_BYTES`] within a time
/// limit, while there is more to send.
pub(crate) struct StallTimeout<S> {
    io: S,
    connection: Arc<Connection>,
    limit: Duration,
    /// The end of the current time limit.
    timer: Pin<Box<Sleep>>,
    /// Whether the system did not take all bytes at once.
    waiting: bool,
    /// Bytes that it took within the current time limit.
    taken: usize,
}

impl<S> StallTimeout<S> {
    pub(crate) fn new(io: S, connection: Arc<Connection>, limit: Duration) -> Self {
        Self {
            io,
            connection,
            limit,
            timer: Box::pin(sleep(limit)),
            waiting: false,
            taken: 0,
        }
    }

    fn start_timer(&mut self) {
        self.taken = 0;
        self.timer.as_mut().reset(Instant::now() + self.limit);
    }

    fn set_waiting(&mut self, waiting: bool) {
        if self.waiting != waiting {
            self.waiting = waiting;
            self.connection.set_waiting(waiting);
        }
    }

    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            self.taken += result.as_ref().map_or(0, |bytes| *bytes);
            return Poll::Ready(result);
        }
        if !self.waiting {
            self.set_waiting(true);
            self.start_timer();
        }
        while self.timer.as_mut().poll(context).is_ready() {
            if self.taken < LEAST_BYTES {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.start_timer();
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Both protocols flush when the system has taken all they had to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(context));
        self.set_waiting(false);
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

tokio::task_local! {
    /// The turn of the HTTP/2 stream that is being polled.
    static TURN: Arc<Turn>;
}

/// Whether a response of HTTP/2 waits for its client, and since when.
#[derive(Debug)]
struct Turn {
    began: Instant,
    /// Milliseconds from `began`; [`Self::SERVER`] if the response waits for the server.
    client_since: AtomicU64,
    /// Ends the response.
    end: Notify,
}

impl Turn {
    const SERVER: u64 = u64::MAX;

    fn new() -> Self {
        Self {
            began: Instant::now(),
            client_since: AtomicU64::new(Self::SERVER),
            end: Notify::new(),
        }
    }

    fn set_client(&self) {
        let now = self.began.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(Self::SERVER);
        self.client_since.store(now, Ordering::Relaxed);
    }

    fn set_server(&self) {
        self.client_since.store(Self::SERVER, Ordering::Relaxed);
    }

    /// Waits until the client has taken nothing for this time.
    async fn stalled(&self, limit: Duration) {
        let mut deadline = Instant::now() + limit;
        loop {
            sleep_until(deadline).await;
            let now = Instant::now();
            deadline = match self.client_since.load(Ordering::Relaxed) {
                Self::SERVER => now + limit,
                since => self.began + Duration::from_millis(since) + limit,
            };
            if deadline <= now {
                return;
            }
        }
    }
}

/// Runs the streams of HTTP/2 connections. It drops a stream, which resets it, when the client has
/// taken nothing of its response for `limit`.
///
/// The body of a response cannot do that: it is not polled while its stream has no window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    /// The time limit.
    pub(crate) limit: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (turn, limit) = (Arc::new(Turn::new()), self.limit);
        let stream = TURN.scope(Arc::clone(&turn), stream);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = stream => {}
                () = turn.stalled(limit) => {
                    tracing::debug!("reset a response that its client does not take");
                }
                () = turn.end.notified() => {}
            }
        });
    }
}

/// Ends the response of a request at once, whatever its client takes of it.
#[derive(Debug, Clone)]
pub(crate) struct ResponseHandle {
    connection: Arc<Connection>,
    /// For HTTP/2.
    turn: Option<Arc<Turn>>,
}

impl ResponseHandle {
    /// Returns the handle of a response. This must be called while its request is answered.
    pub(crate) fn new(connection: &Arc<Connection>) -> Self {
        Self {
            connection: Arc::clone(connection),
            turn: TURN.try_with(Arc::clone).ok(),
        }
    }

    /// Resets the response (HTTP/2), or closes its connection.
    pub(crate) fn end(&self) {
        match &self.turn {
            Some(turn) => turn.end.notify_one(),
            None => self.connection.close(),
        }
    }
}

/// The body of a response, which counts as running until it is dropped.
pub(crate) struct ResponseBody {
    body: Body,
    _running: Running,
    unsent: Option<Arc<UnsentBytes>>,
    /// For HTTP/2.
    pieces: Option<Pieces>,
}

impl ResponseBody {
    /// Returns the body of a response. This must be called while its request is answered.
    pub(crate) fn new(body: Body, running: Running, unsent: Option<UnsentBytes>) -> Self {
        let turn = TURN.try_with(Arc::clone).ok();
        Self {
            body,
            _running: running,
            unsent: unsent.map(Arc::new),
            pieces: turn.map(Pieces::new),
        }
    }
}

/// Counts the bytes of a body in memory. This must be called while its request is answered.
///
/// # Errors
/// Too many bytes wait for the client, or for all clients.
pub(crate) fn count_unsent(
    body: &Body,
    connection: &Arc<Connection>,
) -> Result<Option<UnsentBytes>, Refusal> {
    // The length of a blob is not known here: blobs are counted as downloads.
    let bytes = http_body::Body::size_hint(body).exact().unwrap_or(0);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    // Small answers of HTTP/1, one for each connection, are bounded by their number.
    let least = TURN.try_with(|_| 1).unwrap_or(LEAST_BYTES + 1);
    (bytes >= least).then(|| connection.hold(bytes)).transpose()
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        match &mut this.pieces {
            None => {
                let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
                let unsent = this.unsent.clone();
                Poll::Ready(frame.map(|frame| Ok(hold(frame?, unsent))))
            }
            Some(pieces) => pieces.poll_frame(Pin::new(&mut this.body), context),
        }
    }

    fn is_end_stream(&self) -> bool {
        let sent = self.pieces.as_ref().is_none_or(Pieces::are_sent);
        sent && self.body.is_end_stream()
    }

    /// It is read before the first frame.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns a frame whose data count as unsent until they are dropped: a connection of HTTP/1 takes
/// whole frames, and drops the body after the last one.
fn hold(frame: Frame<Bytes>, unsent: Option<Arc<UnsentBytes>>) -> Frame<Bytes> {
    let Some(unsent) = unsent else {
        return frame;
    };
    frame.map_data(|bytes| {
        let until_sent = Held {
            bytes,
            _until_sent: unsent,
        };
        Bytes::from_owner(until_sent)
    })
}

/// Bytes that hold something until they are dropped.
struct Held<T> {
    bytes: Bytes,
    _until_sent: T,
}

impl<T> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an HTTP/2 response in pieces of at most [`LEAST_BYTES`].
///
/// It ends when its last piece has been sent: after its end, nothing could reset the stream.
struct Pieces {
    turn: Arc<Turn>,
    rest: Bytes,
    /// Fails when the last piece that was handed over has been sent.
    unsent: Option<oneshot::Receiver<()>>,
    ended: bool,
}

impl Pieces {
    fn new(turn: Arc<Turn>) -> Self {
        turn.set_client();
        Self {
            turn,
            rest: Bytes::new(),
            unsent: None,
            ended: false,
        }
    }

    fn poll_frame(
        &mut self,
        mut body: Pin<&mut Body>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.rest.is_empty() && !self.ended {
            self.turn.set_server();
            let frame = ready!(http_body::Body::poll_frame(body.as_mut(), context)).transpose()?;
            self.turn.set_client();
            match frame.map(Frame::into_data) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => self.ended = true,
            }
        }
        if self.rest.is_empty() {
            if let Some(unsent) = &mut self.unsent {
                // The sender is dropped with the piece.
                let _ = ready!(Pin::new(unsent).poll(context));
                self.unsent = None;
            }
            return Poll::Ready(None);
        }
        let bytes = self.rest.split_to(self.rest.len().min(LEAST_BYTES));
        let (sender, unsent) = oneshot::channel();
        self.unsent = Some(unsent);
        self.turn.set_client();
        let piece = Held {
            bytes,
            _until_sent: sender,
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn are_sent(&self) -> bool {
        self.rest.is_empty() && self.unsent.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::connections::Connections;
    use crate::limits::Limits;

    const LIMIT: Duration = Duration::from_secs(30);

    fn body_of(body: Body) -> ResponseBody {
        let connection = connection();
        let unsent = count_unsent(&body, &connection).unwrap();
        ResponseBody::new(body, connection.begin(), unsent)
    }

    fn connection() -> Arc<Connection> {
        let connections = Connections::new(Limits::for_descriptors(1024));
        let admission = connections.admit(Ipv4Addr::LOCALHOST.into()).unwrap();
        Arc::clone(admission.connection())
    }

    fn pair(
        buffer: usize,
    ) -> (
        tokio::io::DuplexStream,
        StallTimeout<tokio::io::DuplexStream>,
    ) {
        let (client, server) = tokio::io::duplex(buffer);
        (client, StallTimeout::new(server, connection(), LIMIT))
    }

    /// Reads `bytes` once in 10 s, a third of the time limit, until the server is done.
    async fn read_slowly(bytes: usize, total: usize) -> io::Result<()> {
        let (mut client, mut server) = pair(100);
        let writing = tokio::spawn(async move { server.write_all(&vec![0; total]).await });
        let mut buffer = vec![0; bytes];
        while !writing.is_finished() {
            tokio::time::sleep(LIMIT / 3).await;
            let mut read = 0;
            while read < bytes && !writing.is_finished() {
                tokio::select! {
                    more = client.read(&mut buffer) => read += more?,
                    () = tokio::time::sleep(Duration::from_millis(1)) => break,
                }
            }
        }
        writing.await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_disconnected() {
        let (_client, mut server) = pair(10);
        let before = Instant::now();
        let error = server.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(before.elapsed() >= LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_few_bytes_at_a_time_is_disconnected() {
        let error = read_slowly(LEAST_BYTES / 10, 1 << 20).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_that_moves_is_served_to_the_end() {
        read_slowly(LEAST_BYTES / 2, 1 << 20).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_there_is_nothing_to_send_does_not_count() {
        let (mut client, mut server) = pair(10);
        for _ in 0..3 {
            let writing = tokio::spawn(async move {
                server.write_all(&[0; 100]).await.unwrap();
                server.flush().await.unwrap();
                server
            });
            tokio::time::sleep(LIMIT / 2).await;
            client.read_exact(&mut [0; 100]).await.unwrap();
            server = writing.await.unwrap();
            tokio::time::sleep(LIMIT * 2).await;
        }
    }

    #[tokio::test]
    async fn a_response_of_http_2_is_reset_by_its_handle() {
        use hyper::rt::Executor;
        let (send_handle, handle) = oneshot::channel();
        let (running, ended) = oneshot::channel::<()>();
        Streams { limit: LIMIT }.execute(async move {
            let _ = send_handle.send(ResponseHandle::new(&connection()));
            std::future::pending::<()>().await;
            drop(running);
        });
        handle.await.unwrap().end();
        ended.await.unwrap_err();
    }

    #[tokio::test]
    async fn a_large_body_of_http_1_counts_until_it_has_been_sent() {
        let connections = Connections::new(Limits {
            unsent_bytes: 3 * LEAST_BYTES,
            ..Limits::for_descriptors(1024)
        });
        let address = std::net::IpAddr::from(Ipv4Addr::LOCALHOST);
        let admission = connections.admit(address).unwrap();
        let connection = admission.connection();
        let body = |bytes: usize| {
            let body = Body::from(vec![0; bytes]);
            let unsent = count_unsent(&body, connection)?;
            Ok(ResponseBody::new(body, connection.begin(), unsent))
        };
        let mut first = body(LEAST_BYTES + 1).unwrap();
        let data = first.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data.len(), LEAST_BYTES + 1);
        drop(first);
        assert_eq!(body(LEAST_BYTES + 1).err(), Some(Refusal::Client));
        assert!(body(LEAST_BYTES).is_ok(), "a small one does not count");
        drop(data);
        assert!(body(LEAST_BYTES + 1).is_ok());
    }

    #[tokio::test]
    async fn a_body_of_http_2_is_the_same_in_pieces() {
        let bytes: Bytes = (0..5 * LEAST_BYTES / 2).map(|byte| byte as u8).collect();
        let turn = Arc::new(Turn::new());
        let mut body = TURN.sync_scope(turn, || body_of(bytes.clone().into()));
        let mut sizes = Vec::new();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            sizes.push(piece.len());
            read.extend_from_slice(&piece);
        }
        assert_eq!(sizes, [LEAST_BYTES, LEAST_BYTES, LEAST_BYTES / 2]);
        assert!(read == bytes);
    }

    #[tokio::test]
    async fn a_body_of_http_2_ends_when_its_last_piece_has_been_sent() {
        let turn = Arc::new(Turn::new());
        let mut body = TURN.sync_scope(turn, || body_of("all".into()));
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(!http_body::Body::is_end_stream(&body));
        let waited = tokio::time::timeout(Duration::from_millis(50), body.frame()).await;
        assert!(waited.is_err(), "the piece has not been sent");
        drop(piece);
        assert!(body.frame().await.is_none());
        assert!(http_body::Body::is_end_stream(&body));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_time_that_a_response_waits_for_its_client_counts() {
        let turn = Turn::new();
        let waited = tokio::time::timeout(LIMIT * 10, turn.stalled(LIMIT)).await;
        assert!(waited.is_err(), "it is the server's turn");
        turn.set_client();
        let before = Instant::now();
        turn.stalled(LIMIT).await;
        assert!(before.elapsed() <= LIMIT + LIMIT);
    }
}
