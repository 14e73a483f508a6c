//! Records that say something else than what they are for: copied, edited, or written by others.

use std::sync::Arc;

use futures::TryStreamExt;
use nixery_state::record::{
    BUILDS, ImageRecord, LayerRecord, MANIFESTS, RecordSecret, load, save, verify_records,
};
use nixery_storage::verify::Problem;
use nixery_storage::{Folder, Key, MemoryStorage, PutMode, Storage};

use super::build;
use crate::image::Image;
use crate::testing::{CountingStorage, Fixture};

async fn keys(storage: &dyn Storage, folder: Folder) -> Vec<Key> {
    let entries = storage.list(folder).await.expect("lists");
    let keys = entries.map_ok(|entry| entry.key.expect("ours"));
    keys.try_collect().await.expect("lists")
}

/// Returns what `nixery verify` says of each record that it refuses.
async fn verified(storage: &dyn Storage) -> Vec<(Key, String)> {
    let defects = verify_records(storage, None, &Default::default(), |_, _| ()).await;
    let defects = defects.expect("works").into_iter().map(|defect| {
        let Problem::Untrue { message } = defect.problem else {
            panic!("{defect}");
        };
        (defect.key, message)
    });
    defects.collect()
}

fn image_record(image: &Image) -> Key {
    Key::new(MANIFESTS, image.key)
}

/// Returns the record of the layer with this store path alone.
async fn layer_record(storage: &dyn Storage, name: &str) -> (Key, LayerRecord) {
    for key in keys(storage, BUILDS).await {
        let record = load::<LayerRecord>(storage, None, &key).await;
        let record = record.expect("works").expect("usable");
        if record.contents[0].0.name().starts_with(name) {
            return (key, record);
        }
    }
    panic!("no layer has {name}");
}

async fn names(image: &Image) -> Vec<String> {
    let paths = image.layers.iter().flat_map(|layer| &layer.paths);
    let mut names: Vec<_> = paths.map(|path| path.name().to_owned()).collect();
    names.sort();
    names
}

/// Before, the wrong image was served.
#[tokio::test]
async fn the_record_of_another_image_is_refused_and_replaced() {
    let fixture = Fixture::new().await;
    let storage = &*fixture.storage;
    let (git, htop) = (build(&fixture, "git").await, build(&fixture, "htop").await);
    assert_eq!(verified(storage).await, []);
    let bytes = storage.get_bytes(&image_record(&htop), u64::MAX).await;
    let copy = bytes.expect("reads").expect("is there");
    let record = load::<ImageRecord>(storage, None, &image_record(&htop)).await;
    let htop_record = record.expect("works").expect("usable");
    let renamed = ImageRecord {
        packages: git.packages.clone(),
        ..htop_record.clone()
    };
    for forgery in ["copy", "edited", "with the packages of the key"] {
        let key = image_record(&git);
        match forgery {
            "copy" => {
                let put = storage.put(&key, copy.clone(), PutMode::Replace);
                let _ = put.await.expect("put");
            }
            "edited" => save(storage, None, &key, &htop_record)
                .await
                .expect("saves"),
            _ => save(storage, None, &key, &renamed).await.expect("saves"),
        }
        // Its own packages are in its own documents, but not those of the key.
        let reported: Vec<_> = verified(storage)
            .await
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        let is_reported = forgery != "edited";
        assert_eq!(reported, is_reported.then_some(key).as_slice(), "{forgery}");

        let again = build(&fixture, "git").await;
        assert_eq!(
            again.oci.digest, git.oci.digest,
            "{forgery}: another image was served"
        );
        assert!(!again.stats.from_cache, "{forgery}");
        assert_eq!(verified(storage).await, [], "{forgery} was not replaced");
    }
}

/// Before, a foreign blob became a layer of the image.
#[tokio::test]
async fn the_record_of_another_layer_is_refused_or_found_by_verify() {
    let fixture = Fixture::new().await;
    let storage = &*fixture.storage;
    build(&fixture, "git").await;
    build(&fixture, "htop").await;
    let (git_key, git) = layer_record(storage, "git").await;
    let (htop_key, htop) = layer_record(storage, "htop").await;
    let bytes = storage.get_bytes(&htop_key, u64::MAX).await;
    let copy = bytes.expect("reads").expect("is there");
    let put = storage.put(&git_key, copy, PutMode::Replace);
    let _ = put.await.expect("put");
    let found = verified(storage).await;
    assert_eq!(
        found,
        [(git_key, format!("it is the record of {htop_key}"))]
    );
    let image = build(&fixture, "git/vim").await;
    let layer = |image: &Image, digest| image.layers.iter().any(|layer| layer.digest == digest);
    assert!(layer(&image, git.layer.digest) && !layer(&image, htop.layer.digest));
    assert_eq!(verified(storage).await, []);

    // The record of another layer, under this key.
    save(storage, None, &git_key, &htop).await.expect("saves");
    let image = build(&fixture, "git/emacs").await;
    assert!(layer(&image, git.layer.digest) && !layer(&image, htop.layer.digest));

    // The same with the right store paths: in this process, and in one that knows nothing yet.
    let lie = LayerRecord {
        layer: htop.layer.clone(),
        ..git.clone()
    };
    let store = Arc::clone(&fixture.storage);
    let other = Fixture::over(store, |_| {}).await;
    for (fixture, name) in [(&fixture, "git/nano"), (&other, "git/ed")] {
        save(storage, None, &git_key, &lie).await.expect("saves");
        let image = build(fixture, name).await;
        assert!(layer(&image, git.layer.digest) && !layer(&image, htop.layer.digest));
    }

    // A record that lies about the contents of a blob of the right size.
    let lies = [
        LayerRecord {
            layer: htop.layer.clone(),
            ..git.clone()
        },
        {
            let mut lie = git.clone();
            lie.layer.diff_id = htop.layer.diff_id;
            lie
        },
        {
            let mut lie = git.clone();
            lie.layer.tar_size += 1;
            lie
        },
        {
            let mut lie = git.clone();
            lie.layer.size += 1;
            lie
        },
    ];
    for lie in lies {
        save(storage, None, &git_key, &lie).await.expect("saves");
        let found = verified(storage).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, git_key);
        storage.delete(&git_key).await.expect("deletes");
    }
}

/// Before, each build of the image failed for ever, by "a defect of the server".
#[tokio::test]
async fn two_records_with_one_blob_are_replaced() {
    let fixture = Fixture::new().await;
    let storage = &*fixture.storage;
    let sound = build(&fixture, "git/htop").await;
    let expected = names(&sound).await;
    let (git_key, git) = layer_record(storage, "git").await;
    let (htop_key, htop) = layer_record(storage, "htop").await;
    let lie = LayerRecord {
        layer: htop.layer.clone(),
        ..git.clone()
    };
    // With the record of the blob's own layer, and without it.
    for own in [true, false] {
        save(storage, None, &git_key, &lie).await.expect("saves");
        if !own {
            storage.delete(&htop_key).await.expect("deletes");
        }
        storage
            .delete(&image_record(&sound))
            .await
            .expect("deletes");
        let image = build(&fixture, "git/htop").await;
        assert_eq!(image.oci.digest, sound.oci.digest);
        assert_eq!(names(&image).await, expected);
        assert_eq!(layer_record(storage, "git").await, (git_key, git.clone()));
        assert_eq!(
            layer_record(storage, "htop").await,
            (htop_key, htop.clone())
        );
    }
}

/// With a secret, who can write to the store cannot plant an image or a layer.
#[tokio::test]
async fn records_without_the_right_tag_count_as_missing() {
    let memory = Arc::new(MemoryStorage::new());
    let with = async |secret: Option<&str>| {
        let storage = Arc::new(CountingStorage::over(memory.clone()));
        let secret = secret.and_then(|secret| RecordSecret::new(secret.repeat(32).as_bytes()));
        Fixture::over(storage, |config| config.record_secret = secret).await
    };
    // The first has no secret, and another one's is wrong.
    let image = build(&with(None).await, "git").await;
    for (secret, cached) in [("a", false), ("a", true), ("b", false), ("a", false)] {
        let fixture = with(Some(secret)).await;
        let found = build(&fixture, "git").await;
        assert_eq!(found.oci.digest, image.oci.digest);
        assert_eq!(found.stats.from_cache, cached, "{secret}");
        assert_eq!(found.stats.layers_cached > 0, cached, "{secret}");
    }
    // A server without the secret uses all of them.
    assert!(build(&with(None).await, "git").await.stats.from_cache);
}
