//! Blobs from the store by redirect, or through the server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::StatusCode;
use nixery_manifest::Digest;
use nixery_server::config::{BlobDelivery, HttpSettings};
use nixery_server::delivery::{DeliveryError, prepare};
use nixery_storage::MemoryStorage;
use rstest::rstest;

use crate::fake_store::{FakeStore, Mood, SECRET};
use crate::registry::{Answer, Registry};

fn settings(delivery: BlobDelivery) -> HttpSettings {
    HttpSettings {
        delivery,
        redirect_ttl: Duration::from_secs(600),
        ..HttpSettings::default()
    }
}

async fn registry(store: &Arc<FakeStore>, delivery: BlobDelivery) -> Registry {
    Registry::over(store.clone(), settings(delivery), |_| {}).await
}

/// Larger than what is always sent through the server.
fn layer() -> (Digest, Bytes) {
    let bytes = Bytes::from(b"layer ".repeat(40_000));
    (Digest::of(&bytes), bytes)
}

async fn stored(store: &FakeStore) -> (String, Digest, Bytes) {
    let (digest, bytes) = layer();
    store.blob(digest, bytes.clone()).await;
    (format!("/v2/git/blobs/{digest}"), digest, bytes)
}

#[track_caller]
fn is_redirect(answer: &Answer, digest: Digest, to: &str) {
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.header("location"), to);
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    assert_eq!(answer.header("content-length"), "0");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.body.is_empty());
}

#[rstest]
#[case(BlobDelivery::Auto)]
#[case(BlobDelivery::Redirect)]
#[tokio::test]
async fn a_get_is_sent_to_a_signed_url(#[case] delivery: BlobDelivery) {
    let store = Arc::new(FakeStore::signing());
    let registry = registry(&store, delivery).await;
    let (path, digest, _) = stored(&store).await;
    let url = format!(
        "https://bucket.test/layers/{}?X-Amz-Expires=600&{SECRET}",
        digest.hex()
    );
    is_redirect(&registry.get(&path).await, digest, &url);
    // The client asks the store for the same range.
    let part = registry.get_with(&path, &[("range", "bytes=5-9")]).await;
    is_redirect(&part, digest, &url);
    assert_eq!(store.opened(), 0, "no byte passed through the server");
    let metrics = registry.get("/metrics").await;
    assert!(
        metrics
            .text()
            .contains("nixery_blobs_total{delivery=\"redirected\"} 2")
    );
}

#[tokio::test]
async fn a_get_is_sent_to_a_public_url() {
    let store = Arc::new(FakeStore::public());
    let registry = registry(&store, BlobDelivery::Public).await;
    let (path, digest, _) = stored(&store).await;
    let url = format!("https://public.test/layers/{}", digest.hex());
    is_redirect(&registry.get(&path).await, digest, &url);
}

#[rstest]
#[case::configured(FakeStore::signing(), BlobDelivery::Proxy, Mood::Well)]
#[case::cannot_sign(FakeStore::default(), BlobDelivery::Auto, Mood::Well)]
#[case::no_public_urls(FakeStore::default(), BlobDelivery::Public, Mood::Well)]
#[case::signing_fails(FakeStore::signing(), BlobDelivery::Auto, Mood::NoSigning)]
#[case::signing_fails_though_wanted(FakeStore::signing(), BlobDelivery::Redirect, Mood::NoSigning)]
#[tokio::test]
async fn otherwise_the_blob_passes_through_the_server(
    #[case] store: FakeStore,
    #[case] delivery: BlobDelivery,
    #[case] mood: Mood,
) {
    let store = Arc::new(store);
    let registry = registry(&store, delivery).await;
    let (path, _, bytes) = stored(&store).await;
    store.set(mood);
    let answer = registry.get(&path).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, bytes);
    let part = registry.get_with(&path, &[("range", "bytes=5-9")]).await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.body, bytes.slice(5..10));
    let metrics = registry.get("/metrics").await;
    assert!(
        metrics
            .text()
            .contains("nixery_blobs_total{delivery=\"proxied\"} 2")
    );
}

#[tokio::test]
async fn what_needs_no_bytes_of_the_store_is_answered_here() {
    let store = Arc::new(FakeStore::signing());
    let registry = registry(&store, BlobDelivery::Redirect).await;
    let (path, digest, bytes) = stored(&store).await;
    let head = registry.head(&path).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("content-length"), bytes.len().to_string());
    assert_eq!(head.header("docker-content-digest"), digest.to_string());

    let tag = format!("\"{digest}\"");
    let known = registry.get_with(&path, &[("if-none-match", &tag)]).await;
    assert_eq!(known.status, StatusCode::NOT_MODIFIED);

    let past = registry
        .get_with(&path, &[("range", "bytes=9999999-")])
        .await;
    assert_eq!(past.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!((store.signed(), store.opened()), (0, 0));
}

#[tokio::test]
async fn small_blobs_save_the_client_a_round_trip() {
    let store = Arc::new(FakeStore::signing());
    let registry = registry(&store, BlobDelivery::Redirect).await;
    let manifest = registry.manifest("git").await;
    let config = manifest["config"]["digest"].as_str().unwrap();
    let answer = registry.get(&format!("/v2/git/blobs/{config}")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(Digest::of(&answer.body).to_string(), config);
    assert_eq!(store.signed(), 0);
}

#[tokio::test]
async fn no_client_is_sent_to_a_blob_that_is_not_there() {
    let store = Arc::new(FakeStore::signing());
    let registry = registry(&store, BlobDelivery::Redirect).await;
    let (digest, _) = layer();
    let path = format!("/v2/git/blobs/{digest}");
    assert_eq!(registry.get(&path).await.error().1, "BLOB_UNKNOWN");
    assert_eq!(store.signed(), 0);
}

#[tokio::test]
async fn no_client_is_sent_to_a_blob_of_the_wrong_size() {
    let store = Arc::new(FakeStore::signing());
    let registry = registry(&store, BlobDelivery::Redirect).await;
    let (path, digest, bytes) = stored(&store).await;
    // A server that has read the blob to its end knows its size.
    let blob = registry.state.builder().open_blob(digest).await.unwrap();
    let Some(blob) = blob else { panic!("{blob:?}") };
    let body = blob.read(None).await.unwrap().unwrap().body;
    let chunks: Vec<_> = body.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), bytes);
    store.blob(digest, bytes.slice(1..)).await;
    assert_eq!(registry.get(&path).await.error().0, 503);
    assert_eq!(store.signed(), 0);
}

#[rstest]
#[case(FakeStore::signing(), BlobDelivery::Auto, Ok(BlobDelivery::Redirect))]
#[case(
    FakeStore::signing(),
    BlobDelivery::Redirect,
    Ok(BlobDelivery::Redirect)
)]
#[case(FakeStore::signing(), BlobDelivery::Proxy, Ok(BlobDelivery::Proxy))]
#[case(FakeStore::default(), BlobDelivery::Auto, Ok(BlobDelivery::Proxy))]
#[case(FakeStore::public(), BlobDelivery::Auto, Ok(BlobDelivery::Proxy))]
#[case(FakeStore::public(), BlobDelivery::Public, Ok(BlobDelivery::Public))]
#[case(
    FakeStore::default(),
    BlobDelivery::Redirect,
    Err("\"redirect\", but this fake store cannot sign URLs. Fix: set it to one of: auto, proxy")
)]
#[case(
    FakeStore::public(),
    BlobDelivery::Redirect,
    Err("Fix: set it to one of: auto, proxy, public")
)]
#[case(
    FakeStore::default(),
    BlobDelivery::Public,
    Err(
        "NIXERY_BLOB_DELIVERY (--blob-delivery) is \"public\", but a fake store has no public URLs"
    )
)]
#[tokio::test]
async fn what_the_store_cannot_do_is_reported_at_start(
    #[case] store: FakeStore,
    #[case] wanted: BlobDelivery,
    #[case] expected: Result<BlobDelivery, &str>,
) {
    let found: Result<_, DeliveryError> = prepare(&settings(wanted), &store).await;
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (found, expected) => panic!("{found:?} and not {expected:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn signing_that_never_ends_holds_nobody_up() {
    let store = FakeStore::signing();
    store.set(Mood::Silent);
    let found = prepare(&settings(BlobDelivery::Auto), &store).await;
    assert_eq!(found, Ok(BlobDelivery::Proxy));
}

#[tokio::test]
async fn a_filesystem_or_memory_store_proxies() {
    let found = prepare(&HttpSettings::default(), &MemoryStorage::new()).await;
    assert_eq!(found, Ok(BlobDelivery::Proxy));
}
