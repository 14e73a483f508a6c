//! The storage engines themselves: what the other tests build on.

use nixery_e2e::engines::{Bucket, FakeGcs, SeaweedFs};

fn keeps_objects(bucket: &Bucket) {
    assert_eq!(bucket.get("layers/a"), None);
    bucket.put("layers/a", b"first");
    bucket.put("layers/b", b"");
    bucket.put("layers/a", b"second");
    assert_eq!(bucket.get("layers/a").as_deref(), Some(&b"second"[..]));
    assert_eq!(bucket.list(), ["layers/a", "layers/b"]);
    bucket.delete("layers/a");
    assert_eq!(bucket.list(), ["layers/b"]);
}

#[test]
#[ignore = "needs SeaweedFS: run make test"]
fn seaweedfs_keeps_objects_apart_by_bucket() {
    let engine = SeaweedFs::shared();
    keeps_objects(&engine.bucket());
    keeps_objects(&engine.bucket());
}

#[test]
#[ignore = "needs fake-gcs-server: run make test"]
fn fake_gcs_keeps_objects_apart_by_bucket() {
    let engine = FakeGcs::shared();
    keeps_objects(&engine.bucket());
    keeps_objects(&engine.bucket());
}

#[test]
#[ignore = "needs SeaweedFS: run make test"]
fn seaweedfs_keeps_what_it_acknowledged_over_a_kill() {
    let mut engine = SeaweedFs::start();
    let bucket = engine.bucket();
    bucket.put("layers/a", b"kept");
    engine.stop();
    engine.restart();
    assert_eq!(bucket.get("layers/a").as_deref(), Some(&b"kept"[..]));
}
