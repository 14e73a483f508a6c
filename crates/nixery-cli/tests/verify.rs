//! `nixery verify`: sound and damaged stores.

mod common;

use common::Place;
use nixery_manifest::Digest;
use nixery_storage::FilesystemStorage;
use rstest::rstest;

/// A store with one good blob, one corrupt one, a cut-off cache entry and a foreign file.
fn damaged() -> Place {
    let place = sound();
    place.write(&format!("store/layers/{}", Digest::of(b"b").hex()), "not b");
    place.write(
        &format!("store/manifests/{}", Digest::of(b"key").hex()),
        r#"{"cut": "#,
    );
    place.write("store/layers/README", "mine");
    place
}

fn sound() -> Place {
    let place = Place::new();
    drop(FilesystemStorage::open(place.path("store")).expect("a store"));
    place.write(&format!("store/layers/{}", Digest::of(b"a").hex()), "a");
    place.write(&format!("store/builds/{}", Digest::of(b"key").hex()), "{}");
    place
}

const VERIFY: [&str; 3] = ["verify", "--storage-path", "store"];

#[test]
fn a_sound_store_is_sound() {
    let text = sound().run(&VERIFY).ok();
    assert_eq!(
        text,
        "1 blobs, 0 manifests and 1 builds verified, 3 bytes: all sound\n"
    );
}

#[test]
fn corrupt_objects_are_listed_and_the_exit_code_is_1() {
    let place = damaged();
    let run = place.run(&VERIFY);
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    let b = Digest::of(b"b").hex();
    assert!(
        run.stdout
            .contains(&format!("corrupt: layers/{b} (5 bytes)")),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("corrupt: manifests/"), "{}", run.stdout);
    assert!(
        run.stdout.contains("foreign: layers/README"),
        "{}",
        run.stdout
    );

    let run = place.run(&[&VERIFY[..], &["--json"]].concat());
    assert_eq!(run.code, 1);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(report["defects"][0]["key"], format!("layers/{b}"));
    assert_eq!(report["defects"][0]["problem"], "wrongDigest");
    assert_eq!(report["defects"][1]["problem"], "notJson");
    assert_eq!(report["foreign"][0], "layers/README");
}

#[test]
fn corrupt_objects_are_deleted_only_on_request() {
    let place = damaged();
    assert_eq!(place.run(&VERIFY).code, 1);
    let run = place.run(&[&VERIFY[..], &["--delete-corrupt"]].concat());
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains(", deleted)"), "{}", run.stdout);
    let text = place.run(&VERIFY).ok();
    assert!(text.ends_with("all sound\n"), "{text}");
    assert!(place.path("store/layers/README").exists());
}

#[test]
fn the_store_may_come_from_the_environment() {
    let place = sound();
    let mut command = place.command(&["verify"]);
    common::finish(command.env("STORAGE_PATH", "store")).ok();
}

#[test]
fn settings_of_another_store_cause_a_warning() {
    let arguments = [&VERIFY[..], &["--s3-bucket", "images"]].concat();
    let run = sound().run(&arguments);
    assert_eq!(run.code, 0);
    assert_eq!(
        run.stderr,
        "warning: NIXERY_S3_BUCKET (--s3-bucket) is set but not used: the blob store is filesystem\n"
    );
}

#[rstest]
#[case(&["verify", "--storage-backend", "s3", "--s3-region", "x"], 2, "NIXERY_S3_BUCKET (--s3-bucket) is not set; needed: the name of the bucket")]
#[case(&["verify", "--storage-backend", "gcs"], 2, "GCS_BUCKET (--gcs-bucket) is not set")]
#[case(&["verify", "--storage-path", "missing"], 1, "no such directory")]
#[case(&["verify", "--storage-path", "."], 1, "contains no store")]
#[case(&["verify", "--storage-path", "store/layers/x"], 1, "a file, not a directory")]
#[case(&["verify", "--concurrency", "0"], 2, "--concurrency")]
#[case(&["verify", "--storage-backend", "tape"], 2, "NIXERY_STORAGE_BACKEND (--storage-backend)")]
fn an_unusable_store_is_named(
    #[case] arguments: &[&str],
    #[case] code: i32,
    #[case] problem: &str,
) {
    let place = sound();
    place.write("store/layers/x", "");
    place.run(arguments).failed(code, problem);
    assert!(
        !place.path("missing").exists(),
        "looking must not make a store"
    );
}

/// Records that nobody wrote for the key under which they are.
#[test]
fn untrue_records_are_listed_and_deleted_on_request() {
    let place = sound();
    let (key, other) = (Digest::of(b"one").hex(), Digest::of(b"other").hex());
    place.write(
        &format!("store/builds/{key}"),
        format!(r#"{{"version":2,"for":"builds/{other}"}}"#),
    );
    let run = place.run(&[&VERIFY[..], &["--json"]].concat());
    assert_eq!(run.code, 1);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(report["defects"][0]["key"], format!("builds/{key}"));
    assert_eq!(report["defects"][0]["problem"], "untrue");
    place.write("secret", "s".repeat(32));
    let with_key = [&VERIFY[..], &["--record-key", "secret"]].concat();
    let run = place.run(&with_key);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.contains("it is not authenticated"),
        "{}",
        run.stdout
    );
    let run = place.run(&[&VERIFY[..], &["--delete-corrupt"]].concat());
    assert!(run.stdout.contains(", deleted)"), "{}", run.stdout);
    assert!(place.run(&VERIFY).ok().ends_with("all sound\n"));
}

#[rstest]
#[case::missing(None, "cannot be read from secret")]
#[case::short(Some("short\n"), "has 5 bytes")]
fn an_unusable_record_key_is_named(#[case] secret: Option<&str>, #[case] problem: &str) {
    let place = sound();
    if let Some(secret) = secret {
        place.write("secret", secret);
    }
    let arguments = [&VERIFY[..], &["--record-key", "secret"]].concat();
    place.run(&arguments).failed(1, problem);
}
