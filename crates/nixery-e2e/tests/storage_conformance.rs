//! The contracts of the blob store, on the engines themselves.

use std::time::Duration;

use nixery_e2e::engines::{Bucket, FakeGcs, SeaweedFs};
use nixery_storage::conformance::{CONTRACTS, Run};
use nixery_storage::{
    BLOBS, GcsConfig, Key, PutMode, RemoteStorage, S3Config, S3Credentials, Storage, StorageError,
    can_create_exclusively,
};

/// What fake-gcs-server cannot do, and Google's own service can.
const NOT_ON_FAKE_GCS: [(&str, &str); 2] = [
    (
        "put_create_new_never_replaces",
        "fake-gcs-server ignores ifGenerationMatch",
    ),
    (
        "one_creator_wins",
        "fake-gcs-server ignores ifGenerationMatch",
    ),
];

fn s3_config(bucket: &Bucket) -> S3Config {
    let environment = bucket.environment();
    let variable = |name: &str| {
        let found = environment.iter().find(|(key, _)| key == name);
        found.unwrap_or_else(|| panic!("no {name}")).1.clone()
    };
    let mut config = S3Config::new(bucket.name());
    config.prefix = "a/prefix".to_owned();
    config.endpoint = Some(format!("http://127.0.0.1:{}", bucket.port()));
    config.credentials = Some(S3Credentials {
        access_key_id: variable("AWS_ACCESS_KEY_ID"),
        secret_access_key: variable("AWS_SECRET_ACCESS_KEY"),
        session_token: None,
    });
    config
}

fn s3(bucket: &Bucket) -> RemoteStorage {
    RemoteStorage::open_s3(s3_config(bucket)).expect("a good configuration")
}

fn gcs(bucket: &Bucket) -> RemoteStorage {
    let mut config = GcsConfig::new(bucket.name());
    config.prefix = "a/prefix".to_owned();
    config.endpoint = Some(format!("http://127.0.0.1:{}", bucket.port()));
    config.anonymous = true;
    RemoteStorage::open_gcs(config).expect("a good configuration")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SeaweedFS: run make test"]
async fn s3_keeps_every_contract() {
    let engine = SeaweedFs::shared();
    let bucket = engine.bucket();
    let (one, other) = (s3(&bucket), s3(&bucket));
    assert_eq!(can_create_exclusively(&one).await.ok(), Some(true));
    let report = Run::new(&one).with_other_handle(&other).run().await;
    assert_eq!(report.kept, CONTRACTS);
    assert_eq!(bucket.list(), Vec::<String>::new(), "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs fake-gcs-server: run make test"]
async fn gcs_keeps_every_contract_that_the_emulator_can() {
    let engine = FakeGcs::shared();
    let bucket = engine.bucket();
    let (one, other) = (gcs(&bucket), gcs(&bucket));
    // When this fails, the emulator has learnt it: drop the exceptions.
    assert_eq!(can_create_exclusively(&one).await.ok(), Some(false));
    let mut run = Run::new(&one).with_other_handle(&other);
    for (contract, reason) in NOT_ON_FAKE_GCS {
        run = run.except(contract, reason);
    }
    let report = run.run().await;
    assert_eq!(
        report.kept.len() + NOT_ON_FAKE_GCS.len(),
        CONTRACTS.len(),
        "{report}"
    );
    assert_eq!(bucket.list(), Vec::<String>::new(), "nothing is left");
}

/// What anybody gets there: status and body.
fn fetch(url: &str) -> (u16, Vec<u8>) {
    let response = nixery_e2e::http::get(url);
    (response.status, response.body)
}

/// Stores `the bytes` under the name of another blob, which no store looks at.
async fn put_some_bytes(storage: &dyn Storage) -> Key {
    let key = Key::from_name(BLOBS, &"0".repeat(64)).expect("a key");
    let put = storage.put(&key, "the bytes".into(), PutMode::Replace);
    put.await.map(drop).expect("put");
    key
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SeaweedFS: run make test"]
async fn signed_urls_open_one_object_for_a_while() {
    let engine = SeaweedFs::shared();
    let bucket = engine.bucket();
    let storage = s3(&bucket);
    let key = put_some_bytes(&storage).await;
    let sign = |ttl| storage.presign_get(&key, Duration::from_secs(ttl));
    let url = sign(60).await.expect("signed").expect("there is a key");
    assert_eq!(fetch(&url), (200, b"the bytes".to_vec()));
    let other = url.replace(&"0".repeat(64), &"1".repeat(64));
    assert_eq!(fetch(&other).0, 403, "another object");
    let public = storage.public_url(&key).expect("a URL");
    assert_eq!(fetch(&public).0, 403, "no signature");
    let short = sign(1).await.expect("signed").expect("there is a key");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fetch(&short).0, 403, "expired");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs fake-gcs-server: run make test"]
async fn public_urls_of_gcs_lead_to_the_object() {
    let engine = FakeGcs::shared();
    let bucket = engine.bucket();
    let storage = gcs(&bucket);
    let key = put_some_bytes(&storage).await;
    let public = storage.public_url(&key).expect("a URL");
    assert_eq!(fetch(&public), (200, b"the bytes".to_vec()));
    let signed = storage.presign_get(&key, Duration::from_secs(60)).await;
    assert_eq!(signed.expect("declined"), None, "there is no key");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SeaweedFS: run make test"]
async fn wrong_buckets_and_keys_are_told_apart() {
    let engine = SeaweedFs::shared();
    let bucket = engine.bucket();
    let good = s3_config(&bucket);
    let credentials = good.credentials.clone().expect("credentials");
    let mut no_bucket = good.clone();
    no_bucket.bucket = "no-such-bucket".to_owned();
    let mut wrong_key = good.clone();
    wrong_key.credentials = Some(S3Credentials {
        secret_access_key: "wrong".to_owned(),
        ..credentials
    });
    let mut unsigned = good;
    unsigned.anonymous = true;
    for (config, hint) in [
        (no_bucket, "there is no bucket `no-such-bucket`"),
        (wrong_key, "the credentials are wrong or expired"),
        (unsigned, "these credentials do not allow this operation"),
    ] {
        let storage = RemoteStorage::open_s3(config).expect("a good configuration");
        let error = storage.check().await.expect_err(hint);
        assert!(matches!(error, StorageError::Open { .. }), "{error:?}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}
