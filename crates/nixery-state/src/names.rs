//! Which images were served under a name, in `names/`.
//!
//! A client that asks for a blob sends the name of an image and a digest. Whether it may have the
//! blob depends on the images of that name: on their blobs, tags and package sources. A server with
//! a policy writes down each image under its name before a client gets the manifest, so that every
//! server on the store can decide about the blobs.
//!
//! The first half of an object's name stands for the name of the image, and the second half for the
//! tag, the source and the image. So one listing finds all images of a name, and no write replaces
//! another.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use nixery_core::{Architecture, ImageName};
use nixery_manifest::Digest;
use nixery_storage::{Contents, Folder, Key, Storage, StorageError};
use serde::{Deserialize, Serialize};

use crate::gc::{InUse, Retention};
use crate::record::{self, Record, RecordSecret};

/// The images that were served, by their names.
pub const NAMES: Folder = Folder::new("names", Contents::Json);

/// How long it is kept which images a name had: 90 days after an image was last written down.
pub const KEPT: Retention = Retention::new(
    NAMES,
    Duration::from_secs(90 * 24 * 60 * 60),
    // Each has some kilobytes.
    100_000,
    InUse::Nothing,
);

/// The most images of one name that are read, the newest.
const MAX_IMAGES: usize = 1000;
/// Objects that are read at once.
const READS: usize = 16;
/// Bytes of a digest that stand for the name.
const NAME_BYTES: usize = 16;

/// An image that was served under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedImage {
    /// The name, as a client requested it.
    pub name: String,
    /// The tag.
    // A record has a `tag` of its own, which authenticates it.
    #[serde(rename = "image_tag")]
    pub tag: String,
    /// The package source, as [`PackageSource`](nixery_core::PackageSource) is displayed.
    pub source: String,
    /// The key of the image's record.
    pub image: Digest,
    /// The manifests.
    pub manifests: Vec<Digest>,
    /// The config and the layers.
    pub blobs: Vec<Digest>,
}

impl Record for NamedImage {
    const VERSION: u32 = 1;
    // An image of 125 layers has about 10 kB.
    const MAX_BYTES: u64 = 1024 * 1024;
}

/// An image of a name, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredName {
    /// The key of the object.
    pub key: Key,
    /// The image.
    pub image: NamedImage,
    /// When it was last written down, by the clock of the store, if the store has times.
    pub written: Option<SystemTime>,
}

/// Returns the images that were served under a name, the newest first, and at most a thousand.
///
/// `known` has the objects that the caller has read, and when they had been written down. They are
/// left out unless they were written again.
///
/// # Errors
/// The store failed.
pub async fn images_of(
    storage: &dyn Storage,
    secret: Option<&RecordSecret>,
    name: &ImageName,
    known: &HashMap<Key, SystemTime>,
) -> Result<Vec<StoredName>, StorageError> {
    let prefix = &digest_of_name(name).hex()[..2 * NAME_BYTES];
    let entries = storage.list_prefix(NAMES, prefix).await?;
    let mut entries: Vec<_> = entries.try_collect().await?;
    entries.sort_unstable_by_key(|entry| Reverse(entry.stat.modified));
    let keys = entries
        .into_iter()
        .filter_map(|entry| Some((entry.key?, entry.stat.modified)));
    let is_known =
        |key: &Key, written: Option<_>| written.is_some() && known.get(key).copied() == written;
    let unknown = keys
        .take(MAX_IMAGES)
        .filter(|(key, written)| !is_known(key, *written));
    let reads = unknown.map(async |(key, written)| {
        let image = record::load::<NamedImage>(storage, secret, &key).await?;
        let image = image.filter(|image| is_of_name(image, name));
        Ok(image.map(|image| StoredName {
            key,
            image,
            written,
        }))
    });
    let read: Vec<_> = stream::iter(reads).buffered(READS).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

/// Writes down an image under its name. An image that is there becomes the newest.
///
/// # Errors
/// The store failed.
pub async fn save(
    storage: &dyn Storage,
    secret: Option<&RecordSecret>,
    name: &ImageName,
    image: &NamedImage,
) -> Result<(), StorageError> {
    record::save(storage, secret, &key_of(name, image), image).await
}

/// Whether an image was written down under this name, in any spelling.
fn is_of_name(image: &NamedImage, name: &ImageName) -> bool {
    ImageName::parse(&image.name).is_ok_and(|found| found == *name)
}

/// Returns the digest of what the name asks for.
fn digest_of_name(name: &ImageName) -> Digest {
    let identity: (&[String], Architecture, bool) =
        (name.packages(), name.architecture(), name.shell());
    Digest::of(&serde_json::to_vec(&identity).expect("names serialise to JSON"))
}

fn key_of(name: &ImageName, image: &NamedImage) -> Key {
    let contents = (&image.tag, &image.source, &image.image);
    let contents = serde_json::to_vec(&contents).expect("texts serialise to JSON");
    let (of_name, of_image) = (digest_of_name(name), Digest::of(&contents));
    let mut bytes = *of_name.as_bytes();
    bytes[NAME_BYTES..].copy_from_slice(&of_image.as_bytes()[NAME_BYTES..]);
    Key::new(NAMES, Digest::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use nixery_storage::MemoryStorage;

    use super::*;

    fn name(text: &str) -> ImageName {
        ImageName::parse(text).expect("valid")
    }

    fn image(name: &str, tag: &str, image: &str) -> NamedImage {
        NamedImage {
            name: name.to_owned(),
            tag: tag.to_owned(),
            source: "nixpkgs nixos-26.05".to_owned(),
            image: Digest::of(image.as_bytes()),
            manifests: vec![Digest::of(b"manifest")],
            blobs: vec![Digest::of(b"layer")],
        }
    }

    async fn found(storage: &MemoryStorage, of: &str) -> Vec<NamedImage> {
        let found = images_of(storage, None, &name(of), &HashMap::new())
            .await
            .expect("works");
        let mut found: Vec<_> = found.into_iter().map(|stored| stored.image).collect();
        found.sort_unstable_by(|one, other| one.tag.cmp(&other.tag));
        found
    }

    #[tokio::test]
    async fn a_name_has_its_images_in_every_spelling() {
        let storage = MemoryStorage::new();
        let images = [
            image("git/htop", "latest", "1"),
            image("htop/git", "main", "2"),
        ];
        for image in &images {
            let of = name(&image.name);
            save(&storage, None, &of, image).await.expect("saves");
            save(&storage, None, &of, image).await.expect("saves again");
        }
        let other = image("git", "latest", "1");
        save(&storage, None, &name("git"), &other)
            .await
            .expect("saves");
        assert_eq!(found(&storage, "git/htop/git").await, images);
        assert_eq!(found(&storage, "git").await, [other]);
        assert_eq!(found(&storage, "arm64/git/htop").await, []);
        assert_eq!(found(&storage, "shell/git/htop").await, []);
    }

    #[tokio::test]
    async fn the_last_one_that_was_written_is_the_first() {
        let storage = MemoryStorage::new();
        let (one, other) = (image("git", "latest", "1"), image("git", "latest", "2"));
        for image in [&one, &other, &one] {
            save(&storage, None, &name("git"), image)
                .await
                .expect("saves");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let found = images_of(&storage, None, &name("git"), &HashMap::new())
            .await
            .expect("works");
        assert_eq!(found[0].image, one);
        assert_eq!(found[1].image, other);
        assert!(found[0].written >= found[1].written);
    }

    #[tokio::test]
    async fn only_images_that_are_new_or_written_again_are_read() {
        let storage = MemoryStorage::new();
        let git = name("git");
        let (one, other) = (image("git", "latest", "1"), image("git", "latest", "2"));
        for image in [&one, &other] {
            save(&storage, None, &git, image).await.expect("saves");
        }
        let unread = async |known: &HashMap<Key, SystemTime>| {
            images_of(&storage, None, &git, known).await.expect("works")
        };
        let all = unread(&HashMap::new()).await;
        let time = |stored: &StoredName| stored.written.expect("memory has times");
        let known = HashMap::from_iter(all.iter().map(|stored| (stored.key, time(stored))));
        assert_eq!((all.len(), unread(&known).await), (2, vec![]));
        tokio::time::sleep(Duration::from_millis(5)).await;
        save(&storage, None, &git, &one).await.expect("saves again");
        let again = unread(&known).await;
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].image, one);
    }

    /// Somebody who can write to the bucket must not give a blob to a name.
    #[tokio::test]
    async fn what_was_written_for_another_name_or_without_the_secret_does_not_count() {
        let storage = MemoryStorage::new();
        let planted = image("htop", "latest", "1");
        let key = key_of(&name("git"), &planted);
        record::save(&storage, None, &key, &planted)
            .await
            .expect("saves");
        assert_eq!(found(&storage, "git").await, []);

        let secret = RecordSecret::new(&[7; 32]).expect("long enough");
        let git = image("git", "latest", "1");
        save(&storage, None, &name("git"), &git)
            .await
            .expect("saves");
        let found = images_of(&storage, Some(&secret), &name("git"), &HashMap::new()).await;
        assert_eq!(found.expect("works"), []);
        save(&storage, Some(&secret), &name("git"), &git)
            .await
            .expect("saves");
        let found = images_of(&storage, Some(&secret), &name("git"), &HashMap::new()).await;
        assert_eq!(found.expect("works").len(), 1);
    }
}
