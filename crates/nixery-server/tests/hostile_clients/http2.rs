//! Clients that open no windows, and one that is only slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Request, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::probe::Probe;
use crate::server::{BLOB_BYTES, STALL, Server};

/// Requests that each connection tries to have at once.
const REQUESTS: usize = 190;

/// What became of the requests of hostile connections.
#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    reset: AtomicUsize,
}

async fn connect(address: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    // A response that is not read does not use up what others may send.
    builder.initial_connection_window_size(1 << 20);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn request(client: &SendRequest<Bytes>, path: &str) -> Result<RecvStream, h2::Error> {
    let request = Request::get(format!("http://x{path}")).body(()).unwrap();
    let mut client = client.clone().ready().await?;
    let (response, _) = client.send_request(request, true)?;
    let response = response.await?;
    assert!([200, 429, 503].contains(&response.status().as_u16()));
    Ok(response.into_body())
}

/// Asks for the blob as often as each connection allows, and takes nothing.
async fn hold(
    tasks: &mut JoinSet<()>,
    address: SocketAddr,
    connections: usize,
    window: u32,
) -> Arc<Counts> {
    let counts = Arc::new(Counts::default());
    for _ in 0..connections {
        let client = connect(address, window).await;
        for _ in 0..REQUESTS {
            let (client, counts) = (client.clone(), Arc::clone(&counts));
            tasks.spawn(async move {
                let Ok(mut body) = request(&client, Server::blob_path()).await else {
                    return;
                };
                counts.answered.fetch_add(1, Ordering::Relaxed);
                while let Some(part) = body.data().await {
                    if part.is_err_and(|error| error.reason() == Some(Reason::CANCEL)) {
                        counts.reset.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    // The window is not opened again.
                }
            });
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_window_neither_block_others_nor_last() {
    let server = Server::start();
    let probe = Probe::start(server.address).await;
    let before = server.descriptors();
    let mut tasks = JoinSet::new();
    let counts = hold(&mut tasks, server.address, 6, 0).await;
    sleep(STALL * 2).await;
    // The limits of a client are free again, though the client has changed nothing.
    server.assert_blob_is_sent().await;
    let answered = counts.answered.load(Ordering::Relaxed);
    let reset = counts.reset.load(Ordering::Relaxed);
    assert!(reset > 50, "{reset} of {answered} responses were reset");
    assert!(server.descriptors() < 512, "{}", server.descriptors());
    probe.assert_answered();
    drop(tasks);
    server.wait_for_descriptors(before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_of_one_byte_cost_little_memory() {
    let server = Server::start();
    let probe = Probe::start(server.address).await;
    let (before, memory) = (server.descriptors(), server.peak_memory());
    let mut tasks = JoinSet::new();
    let counts = hold(&mut tasks, server.address, 50, 1).await;
    sleep(STALL * 3).await;
    assert!(counts.reset.load(Ordering::Relaxed) > 100);
    let grown = server.peak_memory() - memory;
    assert!(grown < 128, "{grown} MiB for clients that take nothing");
    probe.assert_answered();
    drop(tasks);
    server.wait_for_descriptors(before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_stalls_leaves_the_others_of_its_connection_alone() {
    let server = Server::start();
    let client = connect(server.address, 64 * 1024 - 1).await;
    let mut stalled = request(&client, Server::blob_path()).await.unwrap();
    let mut slow = request(&client, Server::blob_path()).await.unwrap();
    let mut received = 0;
    while let Some(part) = slow.data().await {
        let part = part.expect("a client that moves is served to the end");
        received += part.len();
        slow.flow_control().release_capacity(part.len()).unwrap();
        // All of it in three times the time limit.
        sleep(STALL * 3 * part.len() as u32 / BLOB_BYTES as u32).await;
    }
    assert_eq!(received, BLOB_BYTES);
    let error = loop {
        match stalled.data().await.expect("it does not end well") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    let again = Request::get("http://x/healthz").body(()).unwrap();
    let mut client = client.ready().await.expect("the connection lasts");
    let (response, _) = client.send_request(again, true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
}
