//! Tests of reading from a store that fails.

use futures::{StreamExt, TryStreamExt};
use rstest::rstest;

use super::server::{Fault, Server};
use super::{blob, bytes, name};
use crate::{BLOBS, ByteRange, Key, Storage, StorageError};

async fn stored(size: usize) -> (Server, Key, Vec<u8>) {
    let server = Server::start().await;
    let bytes = bytes(size);
    let key = blob(&bytes);
    server.state().objects.insert(name(&key), bytes.clone());
    (server, key, bytes)
}

#[rstest]
#[case(Fault::Answer(500, ""))]
#[case(Fault::Answer(503, "<Error><Code>SlowDown</Code></Error>"))]
#[case(Fault::Answer(429, ""))]
#[case(Fault::Reset)]
#[case(Fault::Silent)]
#[case(Fault::Cut(0))]
#[case(Fault::Cut(70_000))]
#[case(Fault::Stall(70_000))]
#[tokio::test(flavor = "multi_thread")]
async fn two_faults_in_a_row_are_overcome(#[case] fault: Fault) {
    let (server, key, bytes) = stored(300_000).await;
    server.fail("GET", [fault.clone(), fault]);
    let reader = server.storage().get(&key, None).await.unwrap().unwrap();
    assert_eq!(reader.stat.size, 300_000);
    assert!(reader.bytes().await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_resumed_within_the_range() {
    let (server, key, bytes) = stored(300_000).await;
    server.fail("GET", [Fault::Cut(1000), Fault::Cut(70_000)]);
    let range = ByteRange::new(5, 200_000);
    let reader = server
        .storage()
        .get(&key, Some(range))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((reader.stat.size, reader.range), (300_000, range));
    assert!(reader.bytes().await.unwrap() == bytes[5..200_000]);
}

#[rstest]
#[case(Fault::Cut(70_000))]
#[case(Fault::Stall(70_000))]
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_well_is_truncated(#[case] fault: Fault) {
    let (server, key, bytes) = stored(300_000).await;
    server.state().always = Some(("GET", fault));
    let mut reader = server.storage().get(&key, None).await.unwrap().unwrap();
    let mut got = Vec::new();
    let error = loop {
        match reader.body.next().await.expect("no silent end") {
            Ok(chunk) => got.extend_from_slice(&chunk),
            Err(error) => break error,
        }
    };
    assert!(bytes.starts_with(&got));
    let (expected, actual) = (300_000, got.len() as u64);
    assert!(
        matches!(error, StorageError::Truncated { expected: e, actual: a, .. } if (e, a) == (expected, actual)),
        "{error:?}"
    );
    assert!(error.is_retryable());
    assert!(reader.body.next().await.is_none());
    assert_eq!(server.count("GET"), 3);
}

#[rstest]
#[case::refused_by_the_store(false)]
#[case::seen_by_us(true)]
#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_two_states_are_never_mixed(#[case] ignores_conditions: bool) {
    let (server, key, bytes) = stored(300_000).await;
    server.state().ignores_conditions = ignores_conditions;
    server.fail("GET", [Fault::Stall(70_000)]);
    let mut reader = server.storage().get(&key, None).await.unwrap().unwrap();
    let first = reader.body.next().await.unwrap().unwrap();
    assert!(bytes.starts_with(&first));
    server.state().objects.insert(name(&key), vec![0; 300_000]);
    let rest: Result<Vec<_>, _> = reader.body.try_collect().await;
    let error = rest.expect_err("the old bytes are gone");
    assert!(error.is_retryable(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_deleted_meanwhile_ends_in_an_error() {
    let (server, key, _) = stored(300_000).await;
    server.fail("GET", [Fault::Stall(70_000)]);
    let mut reader = server.storage().get(&key, None).await.unwrap().unwrap();
    let _ = reader.body.next().await.unwrap().unwrap();
    server.state().objects.clear();
    let rest: Result<Vec<_>, _> = reader.body.try_collect().await;
    assert!(rest.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_length_yields_no_more_and_no_fewer_bytes() {
    // The body is shorter than the range that the headers promise.
    let (server, key, bytes) = stored(300_000).await;
    server.fail("GET", [Fault::Shorten(1000)]);
    let range = ByteRange::new(0, 200_000);
    let reader = server
        .storage()
        .get(&key, Some(range))
        .await
        .unwrap()
        .unwrap();
    assert!(reader.bytes().await.unwrap() == bytes[..200_000]);
}

#[rstest]
#[case(401, "", false)]
#[case(403, "<Error><Code>AccessDenied</Code></Error>", false)]
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_not_repeated(
    #[case] status: u16,
    #[case] body: &'static str,
    #[case] retryable: bool,
) {
    let (server, key, _) = stored(10).await;
    server.state().always = Some(("GET", Fault::Answer(status, body)));
    let error = server.storage().get(&key, None).await.unwrap_err();
    assert!(matches!(error, StorageError::Denied { .. }), "{error:?}");
    assert_eq!(error.is_retryable(), retryable);
    assert_eq!(server.count("GET"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_bounded() {
    let (server, key, _) = stored(10).await;
    server.state().always = Some(("GET", Fault::Answer(503, "")));
    let error = server.storage().get(&key, None).await.unwrap_err();
    assert!(
        matches!(
            error,
            StorageError::Failed {
                retryable: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(server.count("GET"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_no_missing_object() {
    let server = Server::start().await;
    let (storage, key) = (server.storage(), blob(b"x"));
    assert_eq!(storage.stat(&key).await.unwrap(), None);
    assert!(storage.get(&key, None).await.unwrap().is_none());
    server.state().no_bucket = true;
    // A handle that has not seen the bucket.
    let storage = server.storage();
    for error in [
        storage.stat(&key).await.unwrap_err(),
        storage.get(&key, None).await.unwrap_err(),
        storage.delete(&key).await.unwrap_err(),
        storage
            .list(BLOBS)
            .await
            .unwrap()
            .try_collect::<Vec<_>>()
            .await
            .unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                StorageError::Failed {
                    retryable: false,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(
            format!("{error:?}").contains("there is no bucket `bucket`"),
            "{error:?}"
        );
    }
}

#[rstest]
#[case(Fault::Cut(100))]
#[case(Fault::Stall(100))]
#[case(Fault::Reset)]
#[case(Fault::Answer(500, ""))]
#[tokio::test(flavor = "multi_thread")]
async fn pages_that_break_are_asked_for_again(#[case] fault: Fault) {
    let server = Server::start().await;
    let keys: Vec<_> = (0..5_u8).map(|i| blob(&[i])).collect();
    for key in &keys {
        server.state().objects.insert(name(key), vec![1, 2]);
    }
    server
        .state()
        .objects
        .insert("a/b/layers/foreign".to_owned(), vec![]);
    server
        .state()
        .objects
        .insert("a/b/layers-not/x".to_owned(), vec![]);
    server.fail("GET", [fault.clone(), fault]);
    let listing = server.storage().list(BLOBS).await.unwrap();
    let entries: Vec<_> = listing.try_collect().await.unwrap();
    let mut found: Vec<_> = entries.iter().filter_map(|entry| entry.key).collect();
    found.sort();
    let mut keys = keys;
    keys.sort();
    assert_eq!(found, keys);
    let foreign: Vec<_> = entries.iter().filter(|entry| entry.key.is_none()).collect();
    assert_eq!(foreign.len(), 1);
    assert_eq!(foreign[0].path, "layers/foreign");
}
