//! Plans that are learned at night and taken up without a restart.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nixery_core::{Architecture, ReferenceGraph, StorePath};
use nixery_lab::learned;
use nixery_manifest::Digest;
use nixery_server::learning::learn_forever;
use nixery_state::graphs::{self, RecordedGraph};
use nixery_storage::{MemoryStorage, Storage};
use tokio::time::Instant;

use crate::registry::Registry;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: u64 = 3600;

/// Records twelve images that stand on this version of glibc.
async fn record(storage: &dyn Storage, version: char) {
    let path = |letter: char, name: &str| {
        format!(
            "/nix/store/{}-{name}-{version}",
            letter.to_string().repeat(32)
        )
    };
    for tool in "abcdfghijklm".chars() {
        let (own, glibc) = (path(tool, "tool"), path(version, "glibc"));
        let json = serde_json::json!([
            { "path": own, "narSize": 500_000, "references": [glibc] },
            { "path": glibc, "narSize": 30_000_000, "references": [] },
        ]);
        let root: StorePath = own.parse().unwrap();
        let graph = ReferenceGraph::from_path_info(json.to_string().as_bytes(), &[root]).unwrap();
        let recorded = RecordedGraph {
            name: "tool".to_owned(),
            packages: vec!["tool".to_owned()],
            architecture: Architecture::Amd64,
            compressed_sizes: vec![1; graph.len()],
            graph,
        };
        graphs::record(storage, Digest::of(own.as_bytes()), recorded)
            .await
            .unwrap();
    }
}

async fn plan(storage: &dyn Storage) -> Option<Digest> {
    let learned = learned::load(storage).await.unwrap();
    learned.map(|learned| learned.plan.digest())
}

/// A store by the tests' clock, and a server on it that learns at three, from noon on.
async fn server(
    storage: &Arc<MemoryStorage>,
    begun: Instant,
) -> (Registry, tokio::task::JoinHandle<()>) {
    let registry = Registry::over(storage.clone(), Default::default(), |_| {}).await;
    let noon = UNIX_EPOCH + Duration::from_secs(1000 * 24 * HOUR + 12 * HOUR);
    let metrics = registry.state.plans().clone();
    let builder = registry.state.builder().clone();
    let learning = learn_forever(builder, metrics, 3, move || noon + begun.elapsed());
    let learning = tokio::spawn(learning);
    (registry, learning)
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_learned_at_night_and_taken_up_by_all() {
    let begun = Instant::now();
    let storage = Arc::new(MemoryStorage::with_clock(move || {
        UNIX_EPOCH + begun.elapsed()
    }));
    record(&*storage, '1').await;
    let (one, _learning) = server(&storage, begun).await;
    let (other, _too) = server(&storage, begun).await;
    let strategies = || [&one, &other].map(|server| server.state.builder().strategy().id());
    let size = strategies();
    assert!(
        size[0].starts_with("size") && size[0] == size[1],
        "{size:?}"
    );

    // Until the night.
    tokio::time::sleep(MINUTE * 60 * 14).await;
    assert_eq!((plan(&*storage).await, strategies()), (None, size));
    // Making it takes a thread of its own some time, during which the tests' clock runs.
    while plan(&*storage).await.is_none() {
        assert!(begun.elapsed() < MINUTE * 60 * 24 * 30);
        tokio::time::sleep(MINUTE).await;
    }
    tokio::time::sleep(MINUTE * 6).await;
    let learned = format!("plan/1 {}", plan(&*storage).await.unwrap());
    assert_eq!(strategies(), [learned.clone(), learned.clone()]);
    let metrics = [one.get("/metrics").await, other.get("/metrics").await];
    for text in metrics.map(|answer| answer.text().to_owned()) {
        assert!(text.contains("nixery_plan_changes_total 1\n"), "{text}");
    }

    // Nothing changes while glibc stays.
    tokio::time::sleep(MINUTE * 60 * 24 * 3).await;
    assert_eq!(strategies(), [learned.clone(), learned.clone()]);
    let text = one.get("/metrics").await.text().to_owned();
    assert!(
        !text.contains("nixery_plan_learning_total{result=\"kept\"} 0\n"),
        "{text}"
    );
    assert!(
        text.contains("nixery_plan_learning_total{result=\"failed\"} 0\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_of_another_server_is_taken_up_within_minutes() {
    let begun = Instant::now();
    let storage = Arc::new(MemoryStorage::with_clock(move || {
        UNIX_EPOCH + begun.elapsed()
    }));
    let (server, _learning) = server(&storage, begun).await;
    record(&*storage, '1').await;
    learned::learn(storage.clone()).await.unwrap();
    tokio::time::sleep(MINUTE * 6).await;
    let learned = plan(&*storage).await.unwrap();
    assert_eq!(
        server.state.builder().strategy().id(),
        format!("plan/1 {learned}")
    );
    let text = server.get("/metrics").await.text().to_owned();
    assert!(text.contains("nixery_plan_changes_total 1\n"), "{text}");
}
