//! HTTP/2 connections that open streams and do not read them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::client::SendRequest;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{PATIENCE, connect};

/// Streams that one connection wants at once; the server allows fewer.
const STREAMS: usize = 190;
/// Pause before a connection or a stream is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// What the server did to them.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Answers that began.
    pub(crate) answered: AtomicUsize,
    /// Streams that ended before all of their answer was read.
    pub(crate) reset: AtomicUsize,
    /// Connections that were opened.
    pub(crate) connections: AtomicUsize,
}

/// Keeps a connection and as many unread answers on it as the server allows, for ever.
///
/// The client gives each stream a window of this number of bytes once, and never more.
pub(crate) async fn hoard(
    from: Ipv4Addr,
    port: u16,
    path: String,
    window: u32,
    counts: Arc<Streams>,
) {
    loop {
        // It fails while the server is full, which is its right.
        if let Ok(stream) = connect(from, port, None).await {
            let handshake = h2::client::Builder::new()
                .initial_window_size(window)
                .handshake::<_, &[u8]>(stream);
            if let Ok(Ok((client, connection))) = timeout(PATIENCE, handshake).await {
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let mut streams = JoinSet::new();
                for _ in 0..STREAMS {
                    let (client, path) = (client.clone(), path.clone());
                    streams.spawn(hold_stream(client, path, Arc::clone(&counts)));
                }
                drop(client);
                // Until the server ends it. The streams end with the set.
                let _ = connection.await;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Holds one answer after the other until the connection ends.
async fn hold_stream(mut client: SendRequest<&'static [u8]>, path: String, counts: Arc<Streams>) {
    loop {
        let request = http::Request::get(format!("http://registry.test{path}"));
        let request = request.body(()).expect("a valid request");
        client = match client.ready().await {
            Ok(client) => client,
            Err(_) => return,
        };
        let Ok((answer, _)) = client.send_request(request, true) else {
            return;
        };
        if let Ok(answer) = answer.await {
            counts.answered.fetch_add(1, Ordering::Relaxed);
            let mut body = answer.into_body();
            // The window is not given back, so this waits until the server ends the stream.
            while let Some(Ok(_)) = body.data().await {}
            counts.reset.fetch_add(1, Ordering::Relaxed);
        }
        sleep(PAUSE).await;
    }
}
