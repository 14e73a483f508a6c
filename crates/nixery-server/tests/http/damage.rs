//! Damaged blobs and stores that fail while they serve.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use nixery_manifest::Digest;
use nixery_server::config::HttpSettings;
use rstest::rstest;

use crate::fake_store::{FakeStore, Mood};
use crate::registry::{Registry, request};

async fn registry(store: &Arc<FakeStore>) -> Registry {
    Registry::over(store.clone(), HttpSettings::default(), |_| {}).await
}

fn layer() -> (Digest, Bytes) {
    // More than what is verified before it is sent.
    let bytes = Bytes::from(b"layer ".repeat(100_000));
    (Digest::of(&bytes), bytes)
}

/// What a client gets of a body that breaks off: it must break off.
async fn broken(registry: &Registry, path: &str) -> usize {
    let response = registry.response(request(Method::GET, path, &[])).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut received = 0;
    loop {
        match body.frame().await {
            Some(Ok(frame)) => received += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => return received,
            None => panic!("a damaged blob was sent to its end"),
        }
    }
}

/// The task that deletes what is damaged runs beside the answer.
async fn gone(store: &FakeStore, digest: Digest) {
    let wait = async {
        while store.has(digest).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(20), wait).await;
    within.expect("what is damaged is deleted");
}

fn spoiled(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

#[rstest]
#[case::one_bit(spoiled(&layer().1))]
#[case::cut(layer().1.slice(..500_000))]
#[tokio::test]
async fn damage_of_a_blob_of_unknown_size_is_never_sent_whole(#[case] stored: Bytes) {
    let store = Arc::new(FakeStore::default());
    let registry = registry(&store).await;
    let (digest, bytes) = layer();
    store.blob(digest, stored.clone()).await;
    let path = format!("/v2/git/blobs/{digest}");
    assert!(broken(&registry, &path).await < stored.len());
    gone(&store, digest).await;
    assert_eq!(registry.get(&path).await.status, StatusCode::NOT_FOUND);
    let metrics = registry.get("/metrics").await;
    assert!(metrics.text().contains("nixery_blobs_damaged_total 1\n"));

    store.blob(digest, bytes.clone()).await;
    assert_eq!(registry.get(&path).await.body, bytes);
}

#[tokio::test]
async fn a_blob_that_was_sound_is_not_trusted_afterwards() {
    let store = Arc::new(FakeStore::default());
    let registry = registry(&store).await;
    let (digest, bytes) = layer();
    let path = format!("/v2/git/blobs/{digest}");
    for _ in 0..3 {
        store.blob(digest, bytes.clone()).await;
        assert_eq!(registry.get(&path).await.body, bytes);
        store.blob(digest, spoiled(&bytes)).await;
        assert!(broken(&registry, &path).await < bytes.len());
        gone(&store, digest).await;
    }
    // Now its size alone shows the damage.
    store.blob(digest, bytes.slice(1..)).await;
    assert_eq!(registry.get(&path).await.error().0, 503);
}

#[rstest]
#[case::first("bytes=0-99")]
#[case::damaged("bytes=300000-300099")]
#[case::last("bytes=-1")]
#[tokio::test]
async fn no_part_of_a_damaged_blob_is_sent_before_it_was_verified(#[case] range: &str) {
    let store = Arc::new(FakeStore::default());
    let registry = registry(&store).await;
    let (digest, bytes) = layer();
    store.blob(digest, spoiled(&bytes)).await;
    let path = format!("/v2/git/blobs/{digest}");
    let answer = registry.get_with(&path, &[("range", range)]).await;
    assert_eq!(answer.error().0, 503);
    assert!(answer.headers.contains_key("retry-after"));
    gone(&store, digest).await;
    store.blob(digest, bytes.clone()).await;
    let answer = registry.get_with(&path, &[("range", "bytes=0-99")]).await;
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::PARTIAL_CONTENT, bytes.slice(..100))
    );
}

/// A layer with a wrong bit has the right size: every later build would take it for sound.
#[tokio::test]
async fn a_damaged_layer_of_the_right_size_is_rebuilt_by_the_next_build() {
    let store = Arc::new(FakeStore::default());
    let registry = registry(&store).await;
    let manifest = registry.manifest("git").await;
    let digest: Digest = manifest["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let path = format!("/v2/git/blobs/{digest}");
    let bytes = registry.get(&path).await.body;
    store.blob(digest, spoiled(&bytes)).await;

    // Another process meets the damage; it knows the size from the manifest.
    let other = self::registry(&store).await;
    other.manifest("git").await;
    let answer = other.get(&path).await;
    let (status, _, message) = answer.error();
    assert_eq!(status, 503);
    assert!(answer.headers.contains_key("retry-after"));
    assert!(message.contains("damaged"), "{message}");
    gone(&store, digest).await;

    other.manifest("git").await;
    assert_eq!(other.get(&path).await.body, bytes);
}

#[tokio::test]
async fn many_clients_of_a_damaged_blob_all_see_it_break_off() {
    let store = Arc::new(FakeStore::default());
    let registry = registry(&store).await;
    let (digest, bytes) = layer();
    store.blob(digest, spoiled(&bytes)).await;
    let path = format!("/v2/git/blobs/{digest}");
    let clients = (0..20).map(|_| broken(&registry, &path));
    for received in futures::future::join_all(clients).await {
        assert!(received < bytes.len());
    }
    gone(&store, digest).await;
}

#[rstest]
#[case::down(Mood::Down, 503, true)]
#[case::refusing(Mood::Refusing, 500, false)]
#[tokio::test]
async fn a_store_that_fails_gives_a_clear_answer(
    #[case] mood: Mood,
    #[case] status: u16,
    #[case] retry: bool,
) {
    let store = Arc::new(FakeStore::default());
    let registry = registry(&store).await;
    let (digest, bytes) = layer();
    store.blob(digest, bytes.clone()).await;
    registry.manifest("git").await;
    store.set(mood);
    for path in [
        format!("/v2/git/blobs/{digest}"),
        format!("/v2/git/manifests/{digest}"),
        "/v2/htop/manifests/latest".to_owned(),
    ] {
        let answer = registry.get(&path).await;
        let (found, _, message) = answer.error();
        assert_eq!(found, status, "{path}");
        assert_eq!(answer.headers.contains_key("retry-after"), retry, "{path}");
        assert!(message.contains("blob store"), "{message}");
        assert!(!message.contains("10.0.0.1"), "{message}");
    }
    // Its blobs were seen a moment ago.
    registry.manifest("git").await;
    store.set(Mood::Well);
    let answer = registry.get(&format!("/v2/git/blobs/{digest}")).await;
    assert_eq!(answer.body, bytes);
    registry.manifest("git").await;
    registry.manifest("htop").await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_not_ready() {
    let store = Arc::new(FakeStore::default());
    let registry = registry(&store).await;
    store.set(Mood::Silent);
    let answer = registry.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.text(), "the blob store does not answer\n");
}
