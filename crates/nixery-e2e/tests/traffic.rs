//! Pulls that a real server records, replayed.

use nixery_e2e::command::run;
use nixery_e2e::{Registry, RegistryOptions, pull_checked};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn what_clients_pulled_is_replayed_after_the_server_has_ended() {
    let options = RegistryOptions::demo()
        .env("NIXERY_TRAFFIC_RECORD", "true")
        .env("NIXERY_TRAFFIC_SALT", "0123456789abcdef");
    let mut registry = Registry::start(options);
    pull_checked(&registry, "shell/git");
    pull_checked(&registry, "shell/htop");
    let copy = tempfile::tempdir().unwrap();
    let to = format!("dir:{}", copy.path().display());
    let from = format!("docker://{}", registry.reference("shell/git"));
    let skopeo = run(Command::new("skopeo").args(["copy", "--src-tls-verify=false", &from, &to]));
    skopeo.success();
    let waiting = registry.nixery(&["lab", "replay", "--from-server"]);
    assert!(!waiting.ok, "nothing is stored yet");
    assert!(
        waiting.stderr.contains("NIXERY_TRAFFIC_RECORD=true"),
        "{}",
        waiting.stderr
    );

    registry.signal("TERM");
    let status = registry.ended(Duration::from_secs(60));
    assert_eq!(status.code(), Some(0), "{status}\n{}", registry.log());
    let replay = |more: &[&str]| {
        let arguments = [&["lab", "replay", "--from-server", "--quiet"], more].concat();
        registry.nixery(&arguments).success()
    };
    let table = replay(&[]);
    println!("{table}");
    // skopeo may ask for a manifest twice.
    let summary = table.lines().last().unwrap();
    assert!(
        summary.contains("of 2 distinct images by 2 clients in 1 weeks"),
        "{table}"
    );
    let rows: Value = serde_json::from_str(&replay(&["--json"])).unwrap();
    let bytes = |row: usize| rows[row]["bytes"].as_u64().unwrap();
    let last = rows.as_array().unwrap().len() - 1;
    assert!(rows[0]["bound"] == true && rows[last]["bound"] == true);
    for row in 1..last {
        assert!((bytes(0)..=bytes(last)).contains(&bytes(row)), "{table}");
    }
    // Both images have the shell, which the first client fetches once.
    assert!(bytes(0) < bytes(last), "{table}");
    // All of the layers' bytes are shared out to paths: what one layer for each path stores is no
    // more than the server does, and the root layers are small.
    let stored = std::fs::read_dir(registry.storage().join("layers")).unwrap();
    let stored: u64 = stored
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    let least = rows[0]["storedBytes"].as_u64().unwrap();
    assert!(
        (stored * 8 / 10..=stored).contains(&least),
        "{least} of {stored}\n{table}"
    );
}
