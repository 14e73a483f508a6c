//! Tests of writing to a store that fails.

use rstest::rstest;

use super::server::{Fault, Server};
use super::{blob, bytes, name, spool};
use crate::{PutMode, PutOutcome, Storage, StorageError};

/// Three parts.
const LARGE: usize = (11 << 20) + 3;

/// Uploads a blob from a spool file.
async fn store(server: &Server, bytes: &[u8]) -> Result<(), StorageError> {
    let spool = spool(bytes);
    server.storage().put_file(&blob(bytes), spool.path()).await
}

#[rstest]
#[case(Fault::Answer(500, ""))]
#[case(Fault::Reset)]
#[case(Fault::Silent)]
#[case(Fault::Lost)]
#[tokio::test(flavor = "multi_thread")]
async fn two_faults_in_a_row_are_overcome(#[case] fault: Fault, #[values(100, LARGE)] size: usize) {
    let server = Server::start().await;
    let bytes = bytes(size);
    let key = blob(&bytes);
    server.fail("PUT", [fault.clone(), fault]);
    store(&server, &bytes).await.unwrap();
    assert!(server.state().objects[&name(&key)] == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_last_request_of_an_upload_is_no_failure() {
    let server = Server::start().await;
    let bytes = bytes(LARGE);
    let key = blob(&bytes);
    // The first POST begins the upload.
    server.fail("POST", [Fault::Reset, Fault::Lost]);
    store(&server, &bytes).await.unwrap();
    assert!(server.state().objects[&name(&key)] == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_upload_is_aborted() {
    let server = Server::start().await;
    let bytes = bytes(LARGE);
    server.state().always = Some((
        "PUT",
        Fault::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
    ));
    let error = store(&server, &bytes).await.unwrap_err();
    assert!(matches!(error, StorageError::Denied { .. }), "{error:?}");
    assert_eq!(server.count("DELETE"), 1, "{:?}", server.state().log);
    assert!(server.state().objects.is_empty());
}

/// Parts are sent at once: the later success of another part must not hide the failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_refused_is_not_forgotten_when_another_one_arrives() {
    let server = Server::start().await;
    let refused = Fault::Answer(403, "<Error><Code>AccessDenied</Code></Error>");
    server.state().always = Some(("partNumber=2", refused));
    // So it arrives after the rejected part.
    server.fail("partNumber=1", [Fault::Answer(503, "")]);
    let error = store(&server, &bytes(LARGE)).await.unwrap_err();
    assert!(matches!(error, StorageError::Denied { .. }), "{error:?}");
    assert_eq!(server.count("POST"), 1, "it is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_short_is_sent_again() {
    let server = Server::start().await;
    let bytes = bytes(1000);
    let key = blob(&bytes);
    server.fail("PUT", [Fault::Shorten(999)]);
    store(&server, &bytes).await.unwrap();
    assert!(server.state().objects[&name(&key)] == bytes);
    assert_eq!(server.count("PUT"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_always_arrives_short_is_removed() {
    let server = Server::start().await;
    let bytes = bytes(1000);
    server.state().always = Some(("PUT", Fault::Shorten(999)));
    let error = store(&server, &bytes).await.unwrap_err();
    assert!(
        matches!(
            error,
            StorageError::Truncated {
                expected: 1000,
                actual: 999,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(server.state().objects.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_there_is_not_sent_again() {
    let server = Server::start().await;
    let key = blob(b"x");
    server.state().objects.insert(name(&key), b"x".to_vec());
    store(&server, b"x").await.unwrap();
    assert_eq!(server.count("PUT"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_whose_answer_was_lost_is_ours() {
    let server = Server::start().await;
    let (storage, key) = (server.storage(), blob(b"lease"));
    server.fail("PUT", [Fault::Lost]);
    let outcome = storage.put(&key, "mine".into(), PutMode::CreateNew).await;
    assert_eq!(outcome.unwrap(), PutOutcome::Stored);
    server.fail("PUT", [Fault::Answer(500, "")]);
    let outcome = storage.put(&key, "theirs".into(), PutMode::CreateNew).await;
    assert_eq!(outcome.unwrap(), PutOutcome::AlreadyExists);
    assert_eq!(server.state().objects[&name(&key)], b"mine");
}

#[rstest]
#[case(507, "")]
#[case(403, "<Error><Code>QuotaExceeded</Code></Error>")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_says_so(#[case] status: u16, #[case] body: &'static str) {
    let server = Server::start().await;
    server.state().always = Some(("PUT", Fault::Answer(status, body)));
    let put = server
        .storage()
        .put(&blob(b"x"), "x".into(), PutMode::Replace)
        .await;
    assert!(matches!(put, Err(StorageError::NoSpace { .. })), "{put:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_is_missing_is_the_callers_fault() {
    let server = Server::start().await;
    let missing = std::path::Path::new("/nonexistent/spool");
    let stored = server.storage().put_file(&blob(b""), missing).await;
    assert!(
        matches!(stored, Err(StorageError::Spool { .. })),
        "{stored:?}"
    );
    assert_eq!(server.state().log, Vec::<String>::new());
}
