//! Tests of what a transport of our own is for: slow stores, slow readers and habits of real
//! engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::server::{Fault, Server};
use super::{blob, bytes, name, spool};
use crate::{BLOBS, PutMode, PutOutcome, RemoteStorage, Storage};

/// An S3 store that receives bodies slowly but steadily: `pause` after each MiB.
async fn slow_store(pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let size = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let size = Arc::clone(&size);
            tokio::spawn(async move { answer_slowly(stream, &size, pause).await });
        }
    });
    endpoint
}

/// Answers requests until the connection ends. `size` is the size of the stored object.
async fn answer_slowly(mut stream: TcpStream, size: &AtomicUsize, pause: Duration) -> Option<()> {
    let mut head = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        let length = text.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let length: usize = length.unwrap_or(0);
        let mut remaining = length;
        while remaining > 0 {
            let most = remaining.min(buffer.len());
            stream.read_exact(&mut buffer[..most]).await.ok()?;
            remaining -= most;
            tokio::time::sleep(pause).await;
        }
        let stored = size.load(Ordering::SeqCst);
        let etag = "etag: \"e\"\r\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let answer = if text.starts_with("put") {
            size.store(length, Ordering::SeqCst);
            format!("HTTP/1.1 200 X\r\n{etag}content-length: 0\r\n\r\n")
        } else if text.starts_with("head") && stored == 0 {
            "HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n".to_owned()
        } else if text.starts_with("head") {
            format!("HTTP/1.1 200 X\r\n{etag}content-length: {stored}\r\n\r\n")
        } else {
            let xml = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            let length = xml.len();
            format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n\r\n{xml}")
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_but_steady_upload_is_no_stall() {
    let mut config = Server::start().await.config();
    config.endpoint = Some(slow_store(Duration::from_millis(60)).await);
    config.limits.part_size = 64 << 20;
    let storage = RemoteStorage::open_s3(config).unwrap();
    let spool = spool(&bytes(40 << 20));
    storage
        .put_file(&blob(b"slow"), spool.path())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_no_stall() {
    let server = Server::start().await;
    let bytes = bytes(40 << 20);
    let key = blob(b"reader");
    server.state().objects.insert(name(&key), bytes.clone());
    let reader = server.storage().get(&key, None).await.unwrap().unwrap();
    let mut body = reader.body.enumerate();
    let mut read = Vec::new();
    while let Some((number, chunk)) = body.next().await {
        read.extend_from_slice(&chunk.unwrap());
        if number % 60 == 59 {
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
    }
    assert!(read == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_name_does_not_break_a_listing() {
    let server = Server::start().await;
    for name in [name(&blob(b"x")), "a/b/layers//odd".to_owned()] {
        server.state().objects.insert(name, b"x".to_vec());
    }
    let listing = server.storage().list(BLOBS).await.unwrap();
    let entries: Vec<_> = listing.try_collect().await.unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_of_creators_is_asked_again() {
    let server = Server::start().await;
    let conflict = "<Error><Code>ConditionalRequestConflict</Code></Error>";
    server.fail("PUT", [Fault::Answer(409, conflict)]);
    let (storage, key) = (server.storage(), blob(b"x"));
    let put = storage.put(&key, "x".into(), PutMode::CreateNew);
    assert_eq!(put.await.unwrap(), PutOutcome::Stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_creation_is_sent_again() {
    let server = Server::start().await;
    server.fail("PUT", [Fault::Silent]);
    let (storage, key) = (server.storage(), blob(b"x"));
    let put = storage.put(&key, "x".into(), PutMode::CreateNew);
    assert_eq!(put.await.unwrap(), PutOutcome::Stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_delete_is_sent_again() {
    let server = Server::start().await;
    let key = blob(b"x");
    server.state().objects.insert(name(&key), b"x".to_vec());
    server.fail("DELETE", [Fault::Silent]);
    assert!(server.storage().delete(&key).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_store_is_not_waited_for_twelve_times() {
    let server = Server::start().await;
    let mut config = server.config();
    config.limits.attempts = 12;
    config.limits.call_timeout = Duration::from_millis(200);
    config.limits.stall_timeout = Duration::from_millis(200);
    server.state().always = Some(("HEAD", Fault::Silent));
    let stat = RemoteStorage::open_s3(config)
        .unwrap()
        .stat(&blob(b"x"))
        .await;
    assert!(stat.is_err(), "{stat:?}");
    assert!(server.count("HEAD") <= 3, "{:?}", server.state().log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_timed_out_in_the_store_is_sent_again() {
    let server = Server::start().await;
    let timeout = "<Error><Code>RequestTimeout</Code></Error>";
    server.fail("PUT", [Fault::Answer(400, timeout)]);
    let (storage, key) = (server.storage(), blob(b"x"));
    let put = storage.put(&key, "x".into(), PutMode::Replace);
    assert_eq!(put.await.unwrap(), PutOutcome::Stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_answer_to_a_completed_upload_is_overcome() {
    let server = Server::start().await;
    let error = "<Error><Code>InternalError</Code></Error>";
    server.fail("POST /bucket/a/b/layers/", [Fault::Answer(200, error)]);
    let bytes = bytes(11 << 20);
    let key = blob(b"big");
    let spool = spool(&bytes);
    server.storage().put_file(&key, spool.path()).await.unwrap();
    assert!(server.state().objects[&name(&key)] == bytes);
}
