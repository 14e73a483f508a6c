//! Blobs: whole, in part, not at all.

use bytes::Bytes;
use http::StatusCode;
use nixery_manifest::Digest;
use nixery_storage::{Key, PutMode};
use rstest::rstest;

use crate::registry::Registry;

#[tokio::test]
async fn a_blob_has_all_its_headers() {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    let path = format!("/v2/git/blobs/{digest}");
    let get = registry.get(&path).await;
    assert_eq!(Digest::of(&get.body), digest);
    assert_eq!(get.header("content-type"), "application/octet-stream");
    assert_eq!(get.header("content-length"), bytes.len().to_string());
    assert_eq!(get.header("docker-content-digest"), digest.to_string());
    assert_eq!(get.header("etag"), format!("\"{digest}\""));
    assert_eq!(get.header("accept-ranges"), "bytes");
    assert_eq!(get.header("x-content-type-options"), "nosniff");
    assert!(!get.headers.contains_key("content-encoding"));

    let head = registry.head(&path).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.headers, get.headers);
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn a_blob_is_found_under_any_image_name() {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    let answer = registry
        .get(&format!("/v2/some/other/blobs/{digest}"))
        .await;
    assert_eq!(answer.body, bytes);
}

#[rstest]
#[case::start("bytes=0-9", 0, 10)]
#[case::middle("bytes=5-9", 5, 10)]
#[case::to_the_end("bytes=10-", 10, usize::MAX)]
#[case::past_the_end("bytes=10-99999999", 10, usize::MAX)]
#[tokio::test]
async fn one_range_is_answered_exactly(
    #[case] range: &str,
    #[case] start: usize,
    #[case] end: usize,
) {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    let end = end.min(bytes.len());
    let answer = registry
        .get_with(&format!("/v2/git/blobs/{digest}"), &[("range", range)])
        .await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.body, bytes.slice(start..end));
    assert_eq!(answer.header("content-length"), (end - start).to_string());
    assert_eq!(
        answer.header("content-range"),
        format!("bytes {start}-{}/{}", end - 1, bytes.len())
    );
}

#[tokio::test]
async fn the_last_bytes_can_be_asked_for() {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    let path = format!("/v2/git/blobs/{digest}");
    let answer = registry.get_with(&path, &[("range", "bytes=-7")]).await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.body, bytes.slice(bytes.len() - 7..));

    let all = registry
        .get_with(&path, &[("range", "bytes=-9999999")])
        .await;
    assert_eq!(all.body, bytes);
    let expected = format!("bytes 0-{}/{0}", bytes.len() - 1);
    let expected = expected.replace(
        &format!("/{}", bytes.len() - 1),
        &format!("/{}", bytes.len()),
    );
    assert_eq!(all.header("content-range"), expected);
}

#[rstest]
#[case::several("bytes=0-1,4-5")]
#[case::nonsense("bytes=a-b")]
#[case::other_unit("lines=1-2")]
#[tokio::test]
async fn ranges_that_are_not_honoured_get_the_whole(#[case] range: &str) {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    let answer = registry
        .get_with(&format!("/v2/git/blobs/{digest}"), &[("range", range)])
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, bytes);
    assert!(!answer.headers.contains_key("content-range"));
}

#[tokio::test]
async fn a_range_past_the_end_is_refused_with_the_size() {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    let range = format!("bytes={}-", bytes.len());
    let answer = registry
        .get_with(&format!("/v2/git/blobs/{digest}"), &[("range", &range)])
        .await;
    assert_eq!(answer.error().0, 416);
    assert_eq!(
        answer.header("content-range"),
        format!("bytes */{}", bytes.len())
    );
}

#[tokio::test]
async fn if_range_guards_a_resumed_download() {
    let registry = Registry::new().await;
    let (digest, _) = registry.layer("git").await;
    let path = format!("/v2/git/blobs/{digest}");
    let same = format!("\"{digest}\"");
    for (if_range, status) in [(same.as_str(), 206), ("\"other\"", 200)] {
        let headers = [("range", "bytes=3-"), ("if-range", if_range)];
        let answer = registry.get_with(&path, &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{if_range}");
    }
}

#[tokio::test]
async fn a_client_that_has_the_blob_gets_304_whatever_its_range() {
    let registry = Registry::new().await;
    let (digest, _) = registry.layer("git").await;
    let tag = format!("\"{digest}\"");
    let headers = [("if-none-match", tag.as_str()), ("range", "bytes=0-1")];
    let answer = registry
        .get_with(&format!("/v2/git/blobs/{digest}"), &headers)
        .await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn a_head_with_a_range_describes_the_whole() {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    let request = crate::registry::request(
        http::Method::HEAD,
        &format!("/v2/git/blobs/{digest}"),
        &[("range", "bytes=0-1")],
    );
    let answer = registry.ask(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-length"), bytes.len().to_string());
}

#[tokio::test]
async fn a_blob_of_the_wrong_size_is_never_served() {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    let half = bytes.slice(..bytes.len() / 2);
    let _ = registry
        .storage
        .put(&Key::blob(digest), half, PutMode::Replace)
        .await
        .unwrap();
    let path = format!("/v2/git/blobs/{digest}");
    let (status, _, message) = registry.get(&path).await.error();
    assert_eq!(status, 503);
    assert!(
        message.contains("damaged") && message.contains("nixery verify"),
        "{message}"
    );
    let head = registry.head(&path).await;
    assert_eq!(head.status.as_u16(), 503);
    assert!(head.headers.contains_key("retry-after"));

    // The next request for the image repairs it.
    registry.manifest("git").await;
    assert_eq!(registry.get(&path).await.body, bytes);
}

#[tokio::test]
async fn an_empty_blob_is_served_whole() {
    let registry = Registry::new().await;
    let digest = Digest::of(b"");
    let _ = registry
        .storage
        .put(&Key::blob(digest), Bytes::new(), PutMode::Replace)
        .await
        .unwrap();
    let path = format!("/v2/git/blobs/{digest}");
    let answer = registry.get(&path).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-length"), "0");
    let range = registry.get_with(&path, &[("range", "bytes=0-")]).await;
    assert_eq!(range.header("content-range"), "bytes */0");
}
