//! Pulls from registries whose store is a bucket: through signed redirects, and through the
//! registry itself.

use nixery_e2e::clients::{Containerd, Podman, skopeo_digest, skopeo_pull};
use nixery_e2e::engines::{Bucket, FakeGcs, SeaweedFs};
use nixery_e2e::{Registry, RegistryOptions, http};

/// With git's many layers, for the way that is taken by default.
const LARGE: Image = Image {
    name: "shell/git/htop",
    command: &["git", "--version"],
    printed: "git version",
};
const SMALL: Image = Image {
    name: "hello",
    command: &["hello"],
    printed: "Hello, world!",
};

/// An image and a command that shows that it runs.
struct Image {
    name: &'static str,
    command: &'static [&'static str],
    printed: &'static str,
}

fn on(bucket: &Bucket, delivery: &str) -> Registry {
    let options = RegistryOptions::demo()
        .on(bucket)
        .env("NIXERY_BLOB_DELIVERY", delivery);
    Registry::start(options)
}

/// Every client pulls by tag and by digest, and the image runs.
#[track_caller]
fn every_client_pulls_and_runs(registry: &Registry, image: &Image) {
    let reference = registry.reference(image.name);
    let digest = skopeo_digest(&reference);
    let by_digest = format!("{reference}@{digest}");

    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let by_tag = skopeo_pull(&reference, first.path());
    assert_eq!(
        by_tag.layer_digests(),
        skopeo_pull(&by_digest, second.path()).layer_digests()
    );
    let program = by_tag.unpack().join("bin").join(image.command[0]);
    assert!(program.symlink_metadata().is_ok(), "not in the image");

    let podman = Podman::new();
    podman.pull(&reference).success();
    podman.pull(&by_digest).success();
    let printed = podman.run(&reference, "1000", image.command).success();
    assert!(printed.contains(image.printed), "{printed}");

    let containerd = Containerd::start();
    containerd.pull(&by_digest).success();
    let by_tag = format!("{reference}:latest");
    containerd.pull(&by_tag).success();
    let printed = containerd.run(&by_tag, image.command).success();
    assert!(printed.contains(image.printed), "{printed}");
}

/// The largest layer of the image: the URL of its blob and its digest.
fn largest_layer(registry: &Registry, image: &Image) -> (String, u64) {
    let manifest = registry.manifest(image.name).json();
    let layers = manifest["layers"].as_array().unwrap();
    let largest = layers
        .iter()
        .max_by_key(|layer| layer["size"].as_u64())
        .unwrap();
    let digest = largest["digest"].as_str().unwrap();
    let url = registry.url(&format!("/v2/{}/blobs/{digest}", image.name));
    (url, largest["size"].as_u64().unwrap())
}

/// The same blob, whole, in part and by its head, whichever way it comes.
#[track_caller]
fn the_largest_layer_comes_whole_and_in_part(registry: &Registry, image: &Image) {
    let (url, size) = largest_layer(registry, image);
    let whole = http::get_following(&url);
    assert_eq!((whole.status, whole.body.len() as u64), (200, size));
    let part = http::request(&["-L", "-r", "1000-1999", &url]);
    assert_eq!(part.status, 206);
    assert!(part.body == whole.body[1000..2000], "the wrong part");
    let head = http::request(&["--head", &url]);
    assert_eq!(head.status, 200, "HEAD is answered by the registry itself");
    assert_eq!(
        head.header("content-length"),
        Some(size.to_string().as_str())
    );
}

#[test]
#[ignore = "needs Nix, SeaweedFS, skopeo, podman and containerd: run make test"]
fn clients_pull_from_s3_through_signed_redirects() {
    let engine = SeaweedFs::shared();
    let registry = on(&engine.bucket(), "auto");
    every_client_pulls_and_runs(&registry, &LARGE);

    let (url, _) = largest_layer(&registry, &LARGE);
    let answer = http::get(&url);
    assert_eq!(answer.status, 307, "{}", answer.text());
    let target = answer.header("location").unwrap();
    assert!(
        target.starts_with(&format!("http://127.0.0.1:{}/", engine.port())),
        "{target}"
    );
    assert!(target.contains("X-Amz-Signature="), "{target}");
    // The engine checks the signature: without it, or with another, nothing comes.
    let unsigned = target.split('?').next().unwrap();
    assert_eq!(http::get(unsigned).status, 403);
    let forged = target.replace("X-Amz-Signature=", "X-Amz-Signature=0");
    assert_eq!(http::get(&forged).status, 403);

    the_largest_layer_comes_whole_and_in_part(&registry, &LARGE);
    registry.verify();
}

#[test]
#[ignore = "needs Nix, SeaweedFS, skopeo, podman and containerd: run make test"]
fn clients_pull_from_s3_through_the_registry() {
    let engine = SeaweedFs::shared();
    let registry = on(&engine.bucket(), "proxy");
    every_client_pulls_and_runs(&registry, &SMALL);
    assert_eq!(http::get(&largest_layer(&registry, &SMALL).0).status, 200);
    the_largest_layer_comes_whole_and_in_part(&registry, &SMALL);
    registry.verify();
}

#[test]
#[ignore = "needs Nix, fake-gcs-server, skopeo, podman and containerd: run make test"]
fn clients_pull_from_gcs_through_the_registry() {
    let engine = FakeGcs::shared();
    let registry = on(&engine.bucket(), "auto");
    every_client_pulls_and_runs(&registry, &SMALL);
    assert_eq!(http::get(&largest_layer(&registry, &SMALL).0).status, 200);
    the_largest_layer_comes_whole_and_in_part(&registry, &SMALL);
    registry.verify();
}

#[test]
#[ignore = "needs Nix, SeaweedFS and fake-gcs-server: run make test"]
fn every_store_gives_the_same_image() {
    let (s3, gcs) = (SeaweedFs::shared(), FakeGcs::shared());
    let folder = Registry::on_demo_set();
    let expected = folder.manifest(SMALL.name).body;
    for bucket in [s3.bucket(), gcs.bucket()] {
        let registry = on(&bucket, "auto");
        assert!(
            registry.manifest(SMALL.name).body == expected,
            "another manifest"
        );
    }
}
