//! Recording pulls.

use nixery_lab::traffic::TRAFFIC;
use nixery_state::record::MANIFESTS;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use futures::TryStreamExt;
use http::{Method, Request, StatusCode};
use nixery_builder::BuilderConfig;
use nixery_lab::traffic::{MOST_IN_BATCH, MOST_PULLS, Pull, read_pulls};
use nixery_manifest::Digest;
use nixery_server::config::Salt;
use nixery_server::limits::Limits;
use nixery_server::listen::{bind, serve};
use nixery_server::router;
use nixery_server::traffic::record_forever;
use nixery_storage::{Key, MemoryStorage, Storage};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake_store::{FakeStore, Mood};
use crate::registry::{Answer, DOCKER, OCI, Registry, request};

const TAG: &str = "/v2/shell/git/manifests/latest";
const SALT: &[u8] = b"a secret of this test";
const MINUTE: Duration = Duration::from_secs(60);

async fn over(storage: Arc<dyn Storage>) -> Registry {
    Registry::recording(storage, Salt::new(SALT), |_| {}).await
}

async fn recording() -> Registry {
    over(Arc::new(MemoryStorage::new())).await
}

/// All that is recorded until now.
async fn pulls(registry: &Registry) -> Vec<Pull> {
    registry.state.store_recorded().await;
    let read = read_pulls(&*registry.storage, MOST_PULLS, |_, _| ())
        .await
        .unwrap();
    assert_eq!(read.unreadable, []);
    read.pulls
}

async fn batches(registry: &Registry) -> usize {
    let listing = registry.storage.list(TRAFFIC).await.unwrap();
    listing.try_collect::<Vec<_>>().await.unwrap().len()
}

fn from(address: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = request(Method::GET, TAG, headers);
    let address: IpAddr = address.parse().unwrap();
    let peer = ConnectInfo(SocketAddr::new(address, 40_000));
    request.extensions_mut().insert(peer);
    request
}

fn digest(answer: &Answer) -> String {
    answer.header("docker-content-digest").to_owned()
}

#[tokio::test]
async fn nothing_is_recorded_unless_asked_for() {
    let registry = Registry::new().await;
    assert_eq!(registry.get(TAG).await.status, StatusCode::OK);
    assert_eq!(pulls(&registry).await, []);
    assert_eq!(batches(&registry).await, 0);
    let metrics = registry.get("/metrics").await;
    assert!(!metrics.text().contains("nixery_traffic"));
}

#[tokio::test]
async fn a_get_for_a_manifest_counts_and_nothing_else_does() {
    let registry = recording().await;
    let first = registry.get(TAG).await;
    let by_digest = format!("/v2/shell/git/manifests/{}", digest(&first));
    let layer = first.json()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    for path in [TAG, &by_digest] {
        assert_eq!(registry.head(path).await.status, StatusCode::OK);
        let has = registry.get_with(path, &[("if-none-match", "*")]).await;
        assert_eq!(has.status, StatusCode::NOT_MODIFIED);
    }
    for (path, status) in [
        (format!("/v2/shell/git/blobs/{layer}"), 200),
        (format!("/v2/shell/git/blobs/{}", digest(&first)), 200),
        ("/v2/missing/manifests/latest".to_owned(), 404),
        (format!("/v2/git/manifests/{}", Digest::of(b"none")), 404),
        ("/v2/shell/git/tags/list".to_owned(), 200),
    ] {
        assert_eq!(registry.get(&path).await.status.as_u16(), status, "{path}");
    }
    let recorded = pulls(&registry).await;
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    let entry = Key::new(MANIFESTS, recorded[0].image);
    assert!(registry.storage.stat(&entry).await.unwrap().is_some());
    assert_eq!(batches(&registry).await, 1);
    assert_eq!(pulls(&registry).await.len(), 1, "nothing is stored twice");
}

/// As containerd and Docker pull: HEAD for the tag, then GET by the digest.
#[tokio::test]
async fn a_pull_by_digest_counts_where_the_tag_was_asked_for() {
    let registry = recording().await;
    let mut paths = Vec::new();
    for accept in [DOCKER, OCI] {
        let head = request(Method::HEAD, TAG, &[("accept", accept)]);
        let digest = digest(&registry.ask(head).await);
        paths.push(format!("/v2/git/shell/manifests/{digest}"));
        paths.push(format!("/v2/shell/git/manifests/{digest}"));
    }
    for path in &paths {
        assert_eq!(registry.get(path).await.status, StatusCode::OK);
    }
    registry.get(TAG).await;
    let recorded = pulls(&registry).await;
    assert_eq!(recorded.len(), 5);
    for pull in &recorded {
        assert_eq!(
            (pull.image, pull.client),
            (recorded[4].image, recorded[4].client)
        );
    }
    let names: Vec<_> = recorded
        .iter()
        .map(|pull| pull.name == recorded[4].name)
        .collect();
    assert_eq!(
        names.iter().filter(|same| **same).count(),
        3,
        "`git/shell` asks for another"
    );

    // Another server has not seen the tag.
    let other = over(registry.storage.clone()).await;
    assert_eq!(other.get(&paths[1]).await.status, StatusCode::OK);
    assert_eq!(pulls(&other).await.len(), 5);
    let metrics = other.get("/metrics").await;
    let unknown = "nixery_traffic_pulls_total{result=\"unknown\"} 1\n";
    assert!(metrics.text().contains(unknown), "{}", metrics.text());
}

#[tokio::test]
async fn names_are_distinguished_and_spellings_are_not() {
    let registry = recording().await;
    for name in ["shell/git", "shell/git/git", "git", "arm64/git"] {
        let answer = registry.get(&format!("/v2/{name}/manifests/latest")).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let mut names: Vec<_> = pulls(&registry)
        .await
        .iter()
        .map(|pull| pull.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 3);
}

const DOCKERS: &[(&str, &str)] = &[("user-agent", "docker/29.0")];

#[rstest]
#[case::address("10.0.0.2", DOCKERS, false)]
#[case::port_and_spelling("::ffff:10.0.0.1", DOCKERS, true)]
#[case::agent("10.0.0.1", &[("user-agent", "skopeo/1.9")], false)]
#[case::no_agent("10.0.0.1", &[], false)]
#[case::behind_a_proxy("10.9.9.9", &[("user-agent", "docker/29.0"), ("x-forwarded-for", "10.0.0.1, 10.8.8.8")], true)]
#[case::with_a_port("10.9.9.9", &[("user-agent", "docker/29.0"), ("x-forwarded-for", "10.0.0.1:123")], true)]
#[case::another_behind_it("10.0.0.1", &[("user-agent", "docker/29.0"), ("x-forwarded-for", "[fd00::1]")], false)]
#[case::a_header_of_nonsense("10.0.0.1", &[("user-agent", "docker/29.0"), ("x-forwarded-for", "unknown")], true)]
#[tokio::test]
async fn clients_are_addresses_and_agents(
    #[case] address: &str,
    #[case] headers: &[(&str, &str)],
    #[case] same: bool,
) {
    let registry = recording().await;
    registry.ask(from("10.0.0.1", DOCKERS)).await;
    registry.ask(from(address, headers)).await;
    let recorded = pulls(&registry).await;
    assert_eq!(recorded[0].client == recorded[1].client, same);
}

#[tokio::test]
async fn what_is_stored_reveals_no_address_no_agent_and_no_name() {
    let registry = recording().await;
    registry.ask(from("203.0.113.77", DOCKERS)).await;
    pulls(&registry).await;
    let listing = registry.storage.list(TRAFFIC).await.unwrap();
    let entries: Vec<_> = listing.try_collect().await.unwrap();
    let key = entries[0].key.unwrap();
    let bytes = registry
        .storage
        .get_bytes(&key, 10_000)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    for secret in ["203.0.113", "docker", "git", "secret"] {
        assert!(!text.contains(secret), "{text}");
    }
    // The same client looks different under another salt.
    let salt = Salt::random().unwrap();
    let salted = Registry::recording(registry.storage.clone(), salt, |_| {});
    let salted = salted.await;
    salted.ask(from("203.0.113.77", DOCKERS)).await;
    let recorded = pulls(&salted).await;
    assert_ne!(recorded[0].client, recorded[1].client);
    assert_ne!(recorded[0].name, recorded[1].name);
    assert_eq!(recorded[0].image, recorded[1].image);
}

#[tokio::test]
async fn a_store_that_fails_breaks_no_pull_and_gets_them_later() {
    let store = Arc::new(FakeStore::default());
    let registry = over(store.clone()).await;
    registry.get(TAG).await;
    store.set(Mood::Refusing);
    registry.state.store_recorded().await;
    // Answered from memory. By another client: two batches of the same second and client would be
    // the same bytes.
    let answer = registry.ask(from("203.0.113.77", DOCKERS)).await;
    assert_eq!(answer.status, StatusCode::OK);
    registry.state.store_recorded().await;
    store.set(Mood::Well);
    assert_eq!(pulls(&registry).await.len(), 2);
    // What waited did so as it was, so that a write that succeeded unseen is the same object.
    assert_eq!(batches(&registry).await, 2);
    let metrics = registry.get("/metrics").await;
    for line in [
        "nixery_traffic_pulls_total{result=\"stored\"} 2\n",
        "nixery_traffic_pulls_total{result=\"dropped\"} 0\n",
        "nixery_traffic_store_failures_total 2\n",
    ] {
        assert!(metrics.text().contains(line), "{}", metrics.text());
    }
}

#[tokio::test(start_paused = true)]
async fn storing_ends_while_pulls_go_on() {
    let store = Arc::new(FakeStore::default());
    let registry = over(store.clone()).await;
    registry.get(TAG).await;
    store.set(Mood::Slow);
    let pulling = async {
        for _ in 0..10_000 {
            registry.get(TAG).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let storing = tokio::time::timeout(MINUTE, registry.state.store_recorded());
    tokio::select! {
        stored = storing => stored.expect("it ends"),
        () = pulling => panic!("the minute is over"),
    }
    assert!(!pulls(&registry).await.is_empty());
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted() {
    let store = Arc::new(FakeStore::default());
    // However slow this machine is, the store is not asked for the image again.
    let recheck = |config: &mut BuilderConfig| config.recheck_after = 60 * MINUTE;
    let registry = Registry::recording(store.clone(), Salt::new(SALT), recheck).await;
    let first = registry.get(TAG).await;
    store.set(Mood::Silent);
    // On its way when the store falls silent: it stays there.
    let state = registry.state.clone();
    let stuck = tokio::spawn(async move { state.store_recorded().await });
    tokio::task::yield_now().await;
    for _ in 0..MOST_IN_BATCH + 3 {
        let answer = registry.get(TAG).await;
        assert_eq!(answer.body, first.body);
    }
    stuck.abort();
    store.set(Mood::Well);
    let recorded = pulls(&registry).await;
    assert_eq!(recorded.len(), MOST_IN_BATCH + 1);
    let metrics = registry.get("/metrics").await;
    let dropped = "nixery_traffic_pulls_total{result=\"dropped\"} 3\n";
    assert!(metrics.text().contains(dropped), "{}", metrics.text());
}

#[tokio::test(start_paused = true)]
async fn the_timer_stores_what_was_recorded() {
    let registry = recording().await;
    let recorder = registry.state.recorder().unwrap().clone();
    let timer = tokio::spawn(record_forever(recorder, registry.storage.clone()));
    tokio::time::sleep(6 * MINUTE).await;
    assert_eq!(batches(&registry).await, 0, "there is nothing to store");
    registry.get(TAG).await;
    tokio::time::sleep(6 * MINUTE).await;
    assert_eq!(batches(&registry).await, 1);
    timer.abort();
}

#[tokio::test]
async fn the_address_of_a_connection_is_recorded() {
    let registry = recording().await;
    let listener = bind(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let server = serve(
        listener,
        router(registry.state.clone()),
        Limits::for_descriptors(1024),
        std::future::pending(),
        MINUTE,
    );
    let server = tokio::spawn(server);
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let text = format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    server.abort();
    // Without the network there is none.
    registry.get(TAG).await;
    registry.ask(from("127.0.0.1", &[])).await;
    let recorded = pulls(&registry).await;
    assert_eq!(recorded[0].client, recorded[2].client);
    assert_ne!(recorded[0].client, recorded[1].client);
}
