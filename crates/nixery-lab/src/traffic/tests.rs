use crate::replay::{Grouping, Workload, replay};
use nixery_core::{Architecture, ReferenceGraph, StorePath};
use nixery_state::graphs::GRAPHS;
use nixery_state::graphs::RecordedGraph;
use nixery_storage::MemoryStorage;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::history::History;
use super::*;

/// 2023-11-14.
const THEN: u64 = 1_700_000_000;

fn image(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn pull(time: u64, client: u64, of: &str, name: u64) -> Pull {
    Pull {
        time: THEN + time,
        client: Fingerprint(client),
        image: image(of),
        name: Fingerprint(name),
    }
}

#[test]
fn fingerprints_depend_on_the_salt_and_the_division_into_parts() {
    let of = |salt: &str, parts: &[&str]| {
        let parts: Vec<_> = parts.iter().map(|part| part.as_bytes()).collect();
        Fingerprint::of(salt.as_bytes(), &parts)
    };
    let one = of("salt", &["10.0.0.1", "docker"]);
    assert_eq!(one, of("salt", &["10.0.0.1", "docker"]));
    for other in [
        of("salz", &["10.0.0.1", "docker"]),
        of("salt", &["10.0.0.2", "docker"]),
        of("salt", &["10.0.0.1", "podman"]),
        of("salt", &["10.0.0.1d", "ocker"]),
        of("salt", &["10.0.0.1docker"]),
        of("salt1", &["0.0.0.1", "docker"]),
    ] {
        assert_ne!(one, other);
    }
    assert_eq!(String::from(one).try_into(), Ok(one));
    for wrong in ["", "1", "00000000000000AA", "+000000000000001"] {
        assert!(Fingerprint::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
}

/// Other versions of this program and other replicas read this format.
#[test]
fn the_format_is_pinned() {
    let pulls = [
        pull(0, 1, "a", 7),
        pull(1, 2, "a", 7),
        pull(1, 0xffff_ffff_ffff_ffff, "b", 8),
    ];
    let bytes = batch_to_bytes(&pulls);
    let expected = format!(
        r#"{{"version":1,"images":[["{}","0000000000000007"],["{}","0000000000000008"]],"pulls":[[1700000000,"0000000000000001",0],[1700000001,"0000000000000002",0],[1700000001,"ffffffffffffffff",1]]}}"#,
        image("a"),
        image("b")
    );
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        expected,
        "if this is intended, raise VERSION"
    );
}

#[rstest]
#[case::empty("", "not a batch")]
#[case::half(r#"{"version":1,"images":["#, "not a batch")]
#[case::a_list("[]", "not a batch")]
#[case::no_version("{}", "not a batch")]
#[case::newer(
    r#"{"version":2,"events":7}"#,
    "it has version 2, which this program cannot read"
)]
#[case::client(
    r#"{"version":1,"images":[],"pulls":[[1700000000,"10.0.0.1",0]]}"#,
    "not a batch"
)]
#[case::no_image(
    r#"{"version":1,"images":[],"pulls":[[1700000000,"0000000000000001",0]]}"#,
    "pull 0 names image 0"
)]
#[case::too_early(
    r#"{"version":1,"images":[],"pulls":[[7,"0000000000000001",0]]}"#,
    "pull 0 was at 7 s"
)]
#[case::too_late(
    r#"{"version":1,"images":[],"pulls":[[18446744073709551615,"0000000000000001",0]]}"#,
    "which is not between"
)]
fn invalid_batches_are_refused(#[case] text: &str, #[case] problem: &str) {
    let error = batch_from_bytes(text.as_bytes()).unwrap_err();
    assert!(error.contains(problem), "{error}");
}

#[test]
fn unknown_fields_and_full_batches_are_read() {
    let text = r#"{"about":[],"version":1,"pulls":[],"images":[],"more":{}}"#;
    assert_eq!(batch_from_bytes(text.as_bytes()).unwrap(), []);
    let full = vec![pull(0, 1, "a", 7); MOST_IN_BATCH];
    assert_eq!(batch_from_bytes(&batch_to_bytes(&full)).unwrap(), full);
    let more = vec![pull(0, 1, "a", 7); MOST_IN_BATCH + 1];
    let error = batch_from_bytes(&batch_to_bytes(&more)).unwrap_err();
    assert!(error.contains("it has 10001 pulls"), "{error}");
}

fn pulls() -> impl Strategy<Value = Vec<Pull>> {
    let pull = (0..40 * WEEK, 0u64..4, 0u64..5, 0u64..3)
        .prop_map(|(time, client, of, name)| pull(time, client, &of.to_string(), name));
    prop::collection::vec(pull, 0..40)
}

proptest! {
    #[test]
    fn batches_round_trip(pulls in pulls()) {
        prop_assert_eq!(batch_from_bytes(&batch_to_bytes(&pulls)).unwrap(), pulls);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = batch_from_bytes(&bytes);
    }

    /// Any recorded pulls make a valid workload, and always the same one.
    #[test]
    fn pulls_make_workloads(mut pulls in pulls()) {
        pulls.sort_by_key(|pull| pull.time);
        let made = || {
            let mut history = History::default();
            for number in 0..4u8 {
                history.add(image(&number.to_string()), &app(number));
            }
            history.into_workload(&pulls)
        };
        let recorded = made();
        prop_assert_eq!(recorded.parts.to_json(), made().parts.to_json());
        let workload = Workload::from_parts(&recorded.parts).unwrap();
        prop_assert_eq!(workload.pulls() + recorded.without_graph, pulls.len());
        let missing = pulls.iter().filter(|pull| pull.image == image("4")).count();
        prop_assert_eq!(recorded.without_graph, missing);
        let least = replay(&workload, Grouping::OneLayerPerPath).unwrap();
        let most = replay(&workload, Grouping::OneLayer).unwrap();
        prop_assert!(least.bytes <= most.bytes);
    }
}

#[tokio::test]
async fn batches_are_read_in_the_order_of_time_and_damaged_ones_are_named() {
    let storage = MemoryStorage::new();
    let later = [pull(9, 1, "a", 7), pull(20, 1, "b", 7)];
    let earlier = [pull(5, 2, "a", 7), pull(10, 2, "b", 7)];
    for batch in [later, earlier] {
        store_pulls(&storage, &batch).await.unwrap();
    }
    let put = async |key, bytes: &'static str| {
        let put = storage.put(&key, bytes.into(), PutMode::Replace);
        let _ = put.await.unwrap();
    };
    put(Key::new(TRAFFIC, image("other")), "what was not written").await;
    let newer = r#"{"version":2}"#;
    put(Key::new(TRAFFIC, Digest::of(newer.as_bytes())), newer).await;

    let mut calls = Vec::new();
    let read = read_pulls(&storage, MOST_PULLS, |done, total| {
        calls.push((done, total))
    });
    let read = read.await.unwrap();
    let times: Vec<_> = read.pulls.iter().map(|pull| pull.time - THEN).collect();
    assert_eq!(times, [5, 9, 10, 20]);
    assert_eq!(read.left_out, 0);
    assert_eq!(calls.last(), Some(&(4, 4)));
    let mut why: Vec<_> = read.unreadable.into_iter().map(|(_, why)| why).collect();
    why.sort_unstable();
    assert_eq!(
        why,
        [
            "it is not a batch of pulls of version 1: it has version 2, which this program cannot read",
            "its contents do not match its digest"
        ]
    );
}

#[tokio::test]
async fn the_newest_batches_are_read_up_to_the_limit() {
    let storage = MemoryStorage::new();
    for time in 0..3 {
        store_pulls(&storage, &[pull(time, 1, "a", 7)])
            .await
            .unwrap();
    }
    let read = read_pulls(&storage, 2, |_, _| ()).await.unwrap();
    assert_eq!((read.pulls.len(), read.left_out), (2, 1));
    let none = read_pulls(&MemoryStorage::new(), MOST_PULLS, |_, _| ())
        .await
        .unwrap();
    assert_eq!(none, RecordedPulls::default());
}

fn path(letter: char, name: &str) -> StorePath {
    let hash = letter.to_string().repeat(32);
    StorePath::parse(&format!("/nix/store/{hash}-{name}")).unwrap()
}

/// An image of libc and one version of an app.
fn app(version: u8) -> RecordedGraph {
    let (libc, app) = (path('c', "libc-1"), path('d', &format!("app-{version}")));
    let json = json!([
        { "path": libc.as_str(), "narSize": 1000, "references": [libc.as_str()] },
        { "path": app.as_str(), "narSize": 100 + u64::from(version), "references": [libc.as_str()] },
    ]);
    let json = serde_json::to_vec(&json).unwrap();
    RecordedGraph {
        name: "app".to_owned(),
        packages: vec!["app".to_owned()],
        architecture: Architecture::Amd64,
        graph: ReferenceGraph::from_path_info(&json, &[app]).unwrap(),
        compressed_sizes: vec![400, 50],
    }
}

#[test]
fn weeks_names_and_clients_are_numbered_in_the_order_of_the_pulls() {
    let mut history = History::default();
    history.add(image("app-1"), &app(1));
    history.add(image("app-2"), &app(2));
    let recorded = history.into_workload(&[
        // Without a graph; it does not begin the first week.
        pull(0, 5, "gone", 1),
        pull(10, 9, "app-1", 3),
        pull(11, 5, "app-1", 3),
        pull(12, 9, "app-2", 3),
        pull(9 + WEEK, 9, "gone", 1),
        pull(10 + WEEK, 9, "app-2", 3),
        pull(10 + 3 * WEEK, 5, "app-2", 4),
    ]);
    assert_eq!(
        (recorded.without_graph, recorded.images_without_graph),
        (2, 1)
    );
    let parts = serde_json::to_value(&recorded.parts).unwrap();
    let expected = json!({
        "paths": [
            [path('c', "libc-1").as_str(), 1000, 400, []],
            [path('d', "app-1").as_str(), 101, 50, [0]],
            [path('d', "app-2").as_str(), 102, 50, [0]],
        ],
        // The same image under another name has a place of its own.
        "weeks": [[[1], [2]], [[], [2]], [], [[], [], [2]]],
        "names": [0, 0, 1],
        "events": [
            [0, 0, [0], null],
            [0, 1, [0], null],
            [0, 0, [1], null],
            [1, 0, [1], null],
            [3, 1, [2], null],
        ],
    });
    assert_eq!(parts, expected);

    let workload = Workload::from_parts(&recorded.parts).unwrap();
    let least = replay(&workload, Grouping::OneLayerPerPath).unwrap();
    // Client 9: libc, app-1, then app-2; client 5: libc, app-1, then app-2 under the other name.
    assert_eq!(least.bytes_by_week, [450 + 450 + 50, 0, 0, 50]);
}

#[tokio::test]
async fn recorded_pulls_are_replayed_from_the_store() {
    let storage = MemoryStorage::new();
    let pulls = [
        pull(0, 1, "app-1", 7),
        pull(1, 1, "app-2", 7),
        pull(2, 1, "app-3", 7),
    ];
    for version in [1, 2] {
        let key = image(&format!("app-{version}"));
        nixery_state::graphs::record(&storage, key, app(version))
            .await
            .unwrap();
    }
    // An unreadable graph counts as missing.
    let damaged = Key::new(GRAPHS, image("app-3"));
    let put = storage.put(&damaged, "garbage".into(), PutMode::Replace);
    let _ = put.await.unwrap();
    store_pulls(&storage, &pulls).await.unwrap();

    let read = read_pulls(&storage, MOST_PULLS, |_, _| ()).await.unwrap();
    assert_eq!(read.pulls, pulls);
    let recorded = recorded_workload(&storage, &read.pulls, |_, _| ())
        .await
        .unwrap();
    assert_eq!(
        (recorded.without_graph, recorded.images_without_graph),
        (1, 1)
    );
    let workload = Workload::from_parts(&recorded.parts).unwrap();
    assert_eq!(
        (workload.pulls(), workload.clients(), workload.paths()),
        (2, 1, 3)
    );
}
