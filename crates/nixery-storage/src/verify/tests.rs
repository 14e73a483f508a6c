//! A store with one of every defect.

use bytes::Bytes;

use super::*;
use crate::{BLOBS, MemoryStorage, PutMode};

const MANIFESTS: Folder = Folder::new("manifests", Contents::Json).with_sha1_names();
const BUILDS: Folder = Folder::new("builds", Contents::Json).with_sha1_names();
const FOLDERS: [Folder; 3] = [BLOBS, MANIFESTS, BUILDS];

fn counts(report: &VerifyReport) -> [u64; 3] {
    FOLDERS.map(|folder| report.count(folder))
}

async fn put(storage: &MemoryStorage, key: Key, bytes: &'static str) {
    let bytes = Bytes::from(bytes);
    let _ = storage
        .put(&key, bytes, PutMode::Replace)
        .await
        .expect("put");
}

/// A store with two sound objects and one of every defect that does not need a disk.
async fn broken_store() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| Digest::of(name.as_bytes()));
    put(&storage, Key::blob(a), "a").await;
    put(&storage, Key::blob(b), "not b").await;
    put(&storage, Key::new(MANIFESTS, a), r#"{"any": "JSON"}"#).await;
    put(&storage, Key::new(MANIFESTS, b), "").await;
    put(&storage, Key::legacy(BUILDS, [7; 20]), "[]").await;
    put(&storage, Key::new(BUILDS, c), r#"{"cut": "#).await;
    storage
}

#[tokio::test]
async fn every_defect_is_found_and_only_those() {
    let storage = broken_store().await;
    let mut last = VerifyProgress::default();
    let report = verify(&storage, &FOLDERS, &VerifyOptions::default(), |progress| {
        last = progress
    })
    .await
    .expect("verify");
    assert!(!report.is_sound());
    assert_eq!(counts(&report), [2, 2, 2]);
    assert_eq!((report.legacy, report.bytes), (1, 1 + 15 + 2));
    assert_eq!(
        report
            .defects
            .iter()
            .map(|d| d.problem.clone())
            .collect::<Vec<_>>(),
        [
            Problem::WrongDigest {
                actual: Digest::of(b"not b")
            },
            Problem::Empty,
            Problem::NotJson {
                message: "EOF while parsing a value at line 1 column 8".into()
            },
        ]
    );
    assert_eq!((last.objects_done, last.objects_total), (6, 6));
    assert_eq!(last.bytes_done, last.bytes_total);
    assert_eq!(last.defects, 3);
    let text = report.to_string();
    assert!(
        text.contains(&format!("corrupt: layers/{}", Digest::of(b"b").hex())),
        "{text}"
    );
    let summary = "2 blobs, 2 manifests and 2 builds verified, 18 bytes";
    assert!(text.contains(summary), "{text}");
    assert!(text.ends_with("3 are corrupt"), "{text}");
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["blobs"], 2);
    assert_eq!(
        (&json["manifests"], &json["builds"]),
        (&2.into(), &2.into())
    );
    assert_eq!(json["defects"][0]["problem"], "wrongDigest");
    assert_eq!(
        json["defects"][0]["actual"],
        Digest::of(b"not b").to_string()
    );
    // Verification without deletion changes nothing.
    let again = verify(&storage, &FOLDERS, &VerifyOptions::default(), |_| ())
        .await
        .expect("verify");
    assert_eq!(again, report);
}

#[tokio::test]
async fn corrupt_objects_are_deleted_when_asked() {
    let storage = broken_store().await;
    let options = VerifyOptions {
        concurrency: 0,
        delete_corrupt: true,
    };
    let report = verify(&storage, &FOLDERS, &options, |_| ())
        .await
        .expect("verify");
    assert!(report.defects.iter().all(|defect| defect.deleted));
    let report = verify(&storage, &FOLDERS, &options, |_| ())
        .await
        .expect("verify");
    assert!(report.is_sound(), "{report}");
    assert_eq!(counts(&report), [1, 1, 1]);
    assert!(report.to_string().ends_with("all sound"), "{report}");
}
