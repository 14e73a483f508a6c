//! The collection of garbage: use marks, the timer, its metrics.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use nixery_manifest::Digest;
use nixery_server::collection::collect_until;
use nixery_server::config::GcSettings;
use nixery_state::gc::GcPolicy;
use nixery_state::uses::USES;
use nixery_storage::{Key, Storage};

use crate::fake_store::FakeStore;
use crate::registry::Registry;

const TAG: &str = "/v2/shell/git/manifests/latest";
const MINUTE: Duration = Duration::from_secs(60);

/// How often is up to the builder: here it is each time.
#[tokio::test]
async fn serving_an_image_marks_its_manifest_as_used() {
    let registry = Registry::with(|config| config.gc_grace = Duration::ZERO).await;
    let answer = registry.get(TAG).await;
    let digest: Digest = answer.header("docker-content-digest").parse().unwrap();
    let mark = Key::new(USES, digest);
    // Written in the background.
    let written = async {
        while registry.storage.stat(&mark).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(MINUTE, written).await.unwrap();

    registry.storage.delete(&mark).await.unwrap();
    let by_digest = registry
        .get(&format!("/v2/shell/git/manifests/{digest}"))
        .await;
    assert_eq!(by_digest.status, StatusCode::OK);
    let marked = registry.storage.stat(&mark).await.unwrap();
    assert!(marked.is_some(), "before it is answered");

    let nothing = Digest::of(b"nothing");
    let missing = registry
        .get(&format!("/v2/shell/git/manifests/{nothing}"))
        .await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let marked = registry
        .storage
        .stat(&Key::new(USES, nothing))
        .await
        .unwrap();
    assert!(marked.is_none(), "asking for nothing writes nothing");
}

#[tokio::test(start_paused = true)]
async fn the_timer_collects_and_counts() {
    let registry = Registry::new().await;
    let storage = registry.storage.clone();
    let orphan = Key::blob(Digest::of(b"orphan"));
    let put = storage.put(&orphan, "orphan".into(), nixery_storage::PutMode::Replace);
    let _ = put.await.unwrap();
    let mut policy = GcPolicy::default();
    policy.max_unused = Some(Duration::from_secs(1));
    policy.grace = Duration::ZERO;
    let settings = GcSettings {
        interval: Some(60 * MINUTE),
        policy,
        ignored: Vec::new(),
    };
    let text = registry.get("/metrics").await.text().to_owned();
    assert!(
        text.contains("nixery_gc_runs_total{result=\"done\"} 0\n"),
        "{text}"
    );
    assert!(
        text.contains("nixery_gc_last_success_timestamp_seconds 0\n"),
        "{text}"
    );

    let timer = tokio::spawn(collect_until(
        registry.storage.clone(),
        settings,
        registry.state.metrics().gc().clone(),
        std::future::pending(),
    ));
    // The clock is stopped: it runs on to the next thing to do.
    while storage.stat(&orphan).await.unwrap().is_some() {
        tokio::time::sleep(MINUTE).await;
    }
    tokio::time::sleep(MINUTE).await;
    timer.abort();
    let text = registry.get("/metrics").await.text().to_owned();
    assert!(
        !text.contains("nixery_gc_runs_total{result=\"done\"} 0\n"),
        "{text}"
    );
    assert!(text.contains("nixery_gc_deleted_blobs_total 1\n"), "{text}");
    assert!(text.contains("nixery_gc_freed_bytes_total 6\n"), "{text}");
    assert!(
        !text.contains("nixery_gc_last_success_timestamp_seconds 0\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_only_store_is_not_collected_until_it_is_writable() {
    let registry = Registry::new().await;
    let store = Arc::new(FakeStore::default());
    let orphan = Digest::of(b"orphan");
    store.blob(orphan, "orphan").await;
    store.set_read_only(true);
    store.check().await.unwrap();
    let mut policy = GcPolicy::default();
    policy.grace = Duration::ZERO;
    let settings = GcSettings {
        interval: Some(60 * MINUTE),
        policy,
        ignored: Vec::new(),
    };
    let timer = tokio::spawn(collect_until(
        store.clone(),
        settings,
        registry.state.metrics().gc().clone(),
        std::future::pending(),
    ));
    tokio::time::sleep(24 * 60 * MINUTE).await;
    assert!(store.has(orphan).await);
    let text = registry.get("/metrics").await.text().to_owned();
    for result in ["done", "failed"] {
        let line = format!("nixery_gc_runs_total{{result=\"{result}\"}} 0\n");
        assert!(text.contains(&line), "{text}");
    }
    store.set_read_only(false);
    while store.has(orphan).await {
        tokio::time::sleep(MINUTE).await;
    }
    timer.abort();
}
