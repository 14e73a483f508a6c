//! `nixery lab replay --from-server`: what servers recorded in a store.

#![cfg(feature = "lab")]

mod common;

use common::Place;
use nixery_lab::traffic::{Fingerprint, Pull, WEEK, store_pulls};
use nixery_manifest::Digest;
use nixery_state::graphs::GRAPHS;
use nixery_storage::{FilesystemStorage, Key, PutMode, Storage};
use rstest::rstest;
use serde_json::{Value, json};

const REPLAY: [&str; 5] = ["lab", "replay", "--from-server", "--storage-path", "store"];
/// 2023-11-14.
const THEN: u64 = 1_700_000_000;

fn image(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn pull(time: u64, client: u64, of: &str) -> Pull {
    Pull {
        time: THEN + time,
        client: Fingerprint(0xc11e_4700_0000_0000 + client),
        image: image(of),
        name: Fingerprint(1),
    }
}

/// The graph of libc and one version of an app, as a server records it.
fn graph(app: &str, letter: &str) -> Vec<u8> {
    let path = |letter: &str, name: &str| format!("/nix/store/{}-{name}", letter.repeat(32));
    let json = json!({
        "version": 1,
        "name": "app",
        "packages": ["app"],
        "architecture": "amd64",
        "roots": [1],
        "paths": [[path("a", "libc-1"), 100_000, 40_000, []], [path(letter, app), 30_000, 10_000, [0]]],
    });
    zstd::encode_all(json.to_string().as_bytes(), 1).expect("compresses")
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(future)
}

/// A store with these pulls and the graphs of two versions of an app.
fn store(pulls: &[Pull]) -> Place {
    let place = Place::new();
    let storage = FilesystemStorage::open(place.path("store")).expect("a store");
    run(async {
        if !pulls.is_empty() {
            store_pulls(&storage, pulls).await.expect("stored");
        }
        for (name, letter) in [("app-1", "b"), ("app-2", "c")] {
            let (key, bytes) = (Key::new(GRAPHS, image(name)), graph(name, letter));
            let put = storage.put(&key, bytes.into(), PutMode::Replace).await;
            let _ = put.expect("stored");
        }
    });
    place
}

#[test]
fn what_was_recorded_is_replayed_and_saved() {
    let place = store(&[
        pull(0, 1, "app-1"),
        pull(5, 2, "app-1"),
        pull(6, 2, "gone"),
        pull(WEEK + 1, 1, "app-2"),
    ]);
    let with = |more: &[&str]| place.run(&[&REPLAY[..], more].concat());
    let run = with(&["--save", "workload.json", "--out", "weeks.svg"]);
    let said = "left out: 1 of 4 pulls, of 1 images whose reference graph is not in the store\n";
    assert_eq!(run.stderr, said);
    let table = run.ok();
    let summary = "3 pulls of 2 distinct images by 2 clients in 2 weeks; 3 store paths";
    assert_eq!(table.lines().last(), Some(summary));
    let row = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name));
        line.expect("a row").to_owned()
    };
    // libc and app-1 twice, then app-2; in one layer libc once more.
    assert!(row("one layer per path").contains(" 110.000 "), "{table}");
    assert!(row("one layer  ").contains(" 150.000 "), "{table}");
    for strategy in ["size", "dominator, no popularity"] {
        row(strategy);
    }
    assert!(
        place
            .read("weeks.svg")
            .contains("3 pulls by 2 clients in 2 weeks")
    );

    // What was saved is the same history, by place and not by fingerprint.
    let saved = place.run(&["lab", "replay", "workload.json"]);
    assert_eq!(saved.stderr, "");
    assert_eq!(saved.ok(), table);
    let text = place.read("workload.json");
    assert!(
        !text.contains("c11e47") && text.contains("-libc-1"),
        "{text}"
    );
    let workload: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        workload["events"],
        json!([[0, 0, [0], null], [0, 1, [0], null], [1, 0, [1], null]])
    );
    with(&["--save", "again.json", "--json"]).ok();
    assert_eq!(place.read("again.json"), text);
}

#[test]
fn damaged_batches_are_reported_and_left_out() {
    let place = store(&[pull(0, 1, "app-1")]);
    let damaged = image("damaged").hex();
    place.write(&format!("store/traffic/{damaged}"), "{}");
    let run = place.run(&REPLAY);
    let said = format!(
        "left out: unreadable recorded pulls traffic/{damaged} (its contents do not match its digest)\n"
    );
    assert_eq!(run.stderr, said);
    assert!(
        run.ok()
            .ends_with("1 pulls of 1 distinct images by 1 clients in 1 weeks; 2 store paths\n")
    );
}

#[rstest]
#[case::nothing(&[], "NIXERY_TRAFFIC_RECORD=true (--traffic-record true)")]
#[case::no_graphs(&[pull(0, 1, "gone")], "no reference graph of any image that was pulled")]
fn an_error_says_what_a_history_lacks(#[case] pulls: &[Pull], #[case] problem: &str) {
    let place = store(pulls);
    let run = place.run(&[&REPLAY[..], &["--save", "workload.json"]].concat());
    assert_eq!(run.code, 1);
    run.noting(problem);
    assert!(!place.path("workload.json").exists());
}

#[rstest]
#[case(&["--from-server", "workload.json"], 2, "--from-server")]
#[case(&["workload.json", "--save", "copy.json"], 2, "--save")]
#[case(&["--save", "copy.json"], 2, "--from-server")]
#[case(&["--from-server", "--storage-path", "missing"], 1, "no such directory")]
#[case(&["--from-server", "--storage-backend", "tape"], 2, "NIXERY_STORAGE_BACKEND (--storage-backend) is \"tape\"")]
fn wrong_arguments_are_named(#[case] arguments: &[&str], #[case] code: i32, #[case] problem: &str) {
    let place = Place::new();
    place
        .run(&[&["lab", "replay"], arguments].concat())
        .failed(code, problem);
}
