//! Clients that hold connections or read nothing, and one that is only slow.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::probe::Probe;
use crate::server::{BLOB_BYTES, STALL, Server};

/// Asks for the first bytes of the blob, with a small buffer in the system.
async fn ask_for_blob(server: &Server, bytes: usize) -> TcpStream {
    ask_for_blob_from([127, 0, 0, 1], server, bytes).await
}

async fn ask_for_blob_from(client: [u8; 4], server: &Server, bytes: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let path = Server::blob_path();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let request = format!("{head}Range: bytes=0-{}\r\n\r\n", bytes - 1);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_at_four_times_the_limit_block_nobody() {
    let server = Server::start();
    let probe = Probe::start(server.address).await;
    let before = server.descriptors();
    let mut idle = Vec::new();
    for _ in 0..2_000 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    sleep(Duration::from_secs(1)).await;
    assert!(server.descriptors() < 512, "{}", server.descriptors());
    // The oldest were closed.
    let mut first = idle.swap_remove(0);
    let read = timeout(Duration::from_secs(5), first.read(&mut [0])).await;
    assert!(matches!(read.unwrap(), Ok(0) | Err(_)));
    probe.assert_answered();
    drop((first, idle));
    server.wait_for_descriptors(before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_nothing_are_disconnected() {
    let server = Server::start();
    let probe = Probe::start(server.address).await;
    let (before, memory) = (server.descriptors(), server.peak_memory());
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(ask_for_blob(&server, BLOB_BYTES).await);
    }
    server.assert_blob_is_sent().await;
    let grown = server.peak_memory() - memory;
    assert!(grown < 128, "{grown} MiB for clients that read nothing");
    probe.assert_answered();
    // Though they are still there.
    server.wait_for_descriptors(before).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_that_moves_is_served_to_the_end() {
    // A few times the least speed, and more than all buffers hold.
    const BYTES: usize = 400_000;
    const SECONDS: u32 = 10;
    let server = Server::start();
    let mut stream = ask_for_blob(&server, BYTES).await;
    let (mut received, mut buffer) = (0, vec![0; 16 * 1024]);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            bytes => {
                received += bytes;
                sleep(Duration::from_secs(1) * SECONDS * bytes as u32 / BYTES as u32).await;
            }
        }
    }
    assert!(received > BYTES, "{received}");
}

/// Two addresses of one machine have all downloads, and take enough of them to keep them.
#[tokio::test(flavor = "multi_thread")]
async fn two_clients_with_all_downloads_lose_some_to_a_third() {
    // More than half of the limit of downloads, so that further requests wait.
    const EACH: usize = 70;
    let server = Server::start();
    let probe = Probe::start(server.address).await;
    let mut slow = JoinSet::new();
    for number in 0..2 * EACH {
        let client = [127, 0, 0, 1 + (number % 2) as u8];
        let mut stream = ask_for_blob_from(client, &server, BLOB_BYTES).await;
        slow.spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
                sleep(STALL / 5).await;
            }
        });
    }
    sleep(STALL).await;
    assert_eq!(slow.try_join_next().map(drop), None, "they move");
    let begun = Instant::now();
    let mut stream = ask_for_blob_from([127, 0, 0, 3], &server, BLOB_BYTES).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 206"));
    assert!(answer.len() > BLOB_BYTES);
    assert!(begun.elapsed() < STALL * 3, "{:?}", begun.elapsed());
    // One of the slow clients lost a download, of which it still had a few bytes to read.
    let ended = timeout(STALL * 5, slow.join_next()).await;
    assert!(ended.is_ok(), "no download was cancelled");
    probe.assert_answered();
}
