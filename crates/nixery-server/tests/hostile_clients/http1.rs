//! Clients that hold connections or read nothing, and one that is only slow.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::probe::Probe;
use crate::server::{BLOB_BYTES, Server};

/// Asks for the first bytes of the blob, with a small buffer in the system.
async fn ask_for_blob(server: &Server, bytes: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
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
