//! `nixery gc`: what it asks for, what it shows, what it deletes.

mod common;

use std::fs::File;
use std::time::{Duration, SystemTime};

use common::Place;
use nixery_manifest::Digest;
use nixery_storage::FilesystemStorage;
use rstest::rstest;

const GC: [&str; 3] = ["gc", "--storage-path", "store"];
const DAY: u64 = 24 * 60 * 60;

/// Writes an object that is so many days old.
fn object(place: &Place, folder: &str, digest: Digest, contents: &str, days: u64) {
    let path = place.write(&format!("store/{folder}/{}", digest.hex()), contents);
    let then = SystemTime::now() - Duration::from_secs(days * DAY);
    let file = File::options().append(true).open(path).expect("there");
    file.set_modified(then).expect("dated");
}

/// An image of one layer.
fn image(place: &Place, name: &str, days: u64) {
    let (layer, config, oci) = (
        format!("{name} layer"),
        format!("{name} config"),
        format!("{name} oci"),
    );
    for blob in [&layer, &config, &oci] {
        object(place, "layers", Digest::of(blob.as_bytes()), blob, days);
    }
    let digest = |blob: &str| Digest::of(blob.as_bytes());
    let record = format!(
        r#"{{"version":1,"packages":["cacert","{name}"],"architecture":"amd64","oci":{{"digest":"{}"}},"config":{{"digest":"{}"}},"layers":[{{"digest":"{}"}}]}}"#,
        digest(&oci),
        digest(&config),
        digest(&layer)
    );
    object(
        place,
        "manifests",
        Digest::of(name.as_bytes()),
        &record,
        days,
    );
}

/// A store with an old image, a young one, and a blob that nothing needs.
fn store() -> Place {
    let place = Place::new();
    drop(FilesystemStorage::open(place.path("store")).expect("a store"));
    image(&place, "old", 40);
    image(&place, "young", 3);
    object(&place, "layers", Digest::of(b"orphan"), "orphan", 3);
    place
}

fn has(place: &Place, folder: &str, name: &[u8]) -> bool {
    place
        .path(format!("store/{folder}/{}", Digest::of(name).hex()))
        .exists()
}

#[rstest]
#[case::nothing(&[], "error: no limit is set, so nothing was deleted. Fix: set NIXERY_GC_MAX_UNUSED (--max-unused), NIXERY_GC_MAX_AGE (--max-age), NIXERY_GC_MAX_SIZE (--max-size) or NIXERY_GC_MAX_SHARE (--max-share)")]
#[case::only_a_grace(&["--grace", "1h"], "error: no limit is set")]
#[case::a_wrong_time(&["--max-unused", "month"], "NIXERY_GC_MAX_UNUSED (--max-unused) is \"month\"; allowed: a time from 1s to 100years, such as 90s, 30m, 6h or 30d")]
#[case::a_wrong_size(&["--max-size", "lots"], "NIXERY_GC_MAX_SIZE (--max-size) is \"lots\"; allowed: a size such as 500M")]
fn without_a_policy_nothing_happens(#[case] arguments: &[&str], #[case] problem: &str) {
    let place = store();
    place.run(&[&GC[..], arguments].concat()).failed(2, problem);
    assert!(has(&place, "layers", b"orphan"));
}

#[test]
fn a_missing_store_is_named() {
    let place = Place::new();
    let arguments = ["gc", "--storage-path", "missing", "--max-unused", "30d"];
    place.run(&arguments).failed(1, "no such directory");
    assert!(
        !place.path("missing").exists(),
        "looking must not make a store"
    );
}

#[test]
fn a_dry_run_shows_a_report_and_deletes_nothing() {
    let place = store();
    let text = place
        .run(&[&GC[..], &["--max-unused", "30d", "--dry-run"]].concat())
        .ok();
    let lines: Vec<_> = text.lines().collect();
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(words(lines[0]), "IMAGE LAST USE SIZE FREES WHY");
    assert_eq!(words(lines[1]), "old 40 days 26 B 26 B unused for too long");
    assert_eq!(
        lines[3],
        "1 of 2 images would be dropped; the remaining images need 32 B (58 B before)"
    );
    assert_eq!(
        lines[4],
        "6 B would be freed now: 1 blobs that nothing has needed for 6h"
    );
    assert_eq!(
        lines[5],
        "26 B would be freed by a collection after 6h: blobs that nothing needs any more"
    );
    assert!(has(&place, "layers", b"orphan") && has(&place, "manifests", b"old"));
}

#[test]
fn a_collection_deletes_what_a_dry_run_shows() {
    let place = store();
    let mut command = place.command(&["gc", "--json"]);
    command
        .env("STORAGE_PATH", "store")
        .env("NIXERY_GC_MAX_UNUSED", "30d");
    let run = common::finish(&mut command);
    assert_eq!(run.stderr, "");
    let report: serde_json::Value = serde_json::from_str(&run.ok()).expect("JSON");
    assert_eq!(report["dryRun"], false);
    assert_eq!(report["dropped"][0]["name"], "old");
    assert_eq!(report["dropped"][0]["reason"], "unused");
    assert_eq!(
        (
            report["deletedBlobs"].as_u64(),
            report["freedBytes"].as_u64()
        ),
        (Some(1), Some(6))
    );
    assert!(!has(&place, "layers", b"orphan") && !has(&place, "manifests", b"old"));
    assert!(
        has(&place, "layers", b"old layer"),
        "for those who are pulling it"
    );
    assert!(has(&place, "layers", b"young layer") && has(&place, "manifests", b"young"));

    // The use marks that were left with the dropped image tell the next collection to wait.
    let text = place
        .run(&[&GC[..], &["--max-unused", "30d"]].concat())
        .ok();
    assert!(text.starts_with("0 of 1 images dropped"), "{text}");
    assert!(has(&place, "layers", b"old layer"));
    for blob in ["old layer", "old config", "old oci"] {
        object(&place, "uses", Digest::of(blob.as_bytes()), "{}", 1);
    }
    place
        .run(&[&GC[..], &["--max-unused", "30d"]].concat())
        .ok();
    assert!(!has(&place, "layers", b"old layer") && !has(&place, "uses", b"old layer"));
}
