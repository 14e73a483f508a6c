//! Takes the inventory of a store.

use crate::lease::LEASES;
use crate::marks::USES;
use crate::record::BUILDS;
use crate::record::MANIFESTS;
use std::collections::HashMap;
use std::time::SystemTime;

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_storage::{BLOBS, Folder, Key, Storage, StorageError};

use super::inventory::{BlobId, Inventory, LayerEntry};
use super::records::{self, ImageEntry};
use super::remembered::{Remembered, Retention};
use super::{GcError, GcPhase, GcPolicy, Watch, age, doing};
use crate::marks::is_use;
use crate::record::{ImageRecord, LayerRecord, MAX_MANIFEST, Record};

/// Objects read at once: hides a remote store's latency.
const READS: usize = 32;

/// Lists and reads the store.
///
/// Marks are listed before blobs, and what refers to blobs last: what is stored meanwhile is young
/// and stays, and no reference to an old blob is overlooked.
pub(super) async fn survey(
    storage: &dyn Storage,
    policy: &GcPolicy,
    retentions: &[Retention],
    now: SystemTime,
    watch: &mut Watch<'_>,
) -> Result<Inventory, GcError> {
    let mut inventory = Inventory::default();
    watch.enter(GcPhase::List, 0);
    let mut marks: HashMap<Digest, Mark> = HashMap::new();
    list(storage, USES, now, watch, |key, size, modified| {
        if let Some(digest) = key.digest() {
            let is_use = is_use(size);
            marks.insert(digest, Mark { modified, is_use });
        }
    })
    .await?;
    list(storage, LEASES, now, watch, |key, _, modified| {
        inventory.leases.push((key, modified));
    })
    .await?;
    inventory.remembered = remembered(storage, retentions, now, watch).await?;
    list(storage, BLOBS, now, watch, |key, size, modified| {
        if let Some(digest) = key.digest() {
            let marked = marks.get(&digest).map_or(modified, |mark| mark.modified);
            inventory.add_blob(digest, size, modified.max(marked));
        }
    })
    .await?;
    let mut layers = Vec::new();
    list(storage, BUILDS, now, watch, |key, _, modified| {
        if age(now, modified) > policy.grace {
            layers.push((key, modified));
        }
    })
    .await?;
    let mut images = Vec::new();
    list(storage, MANIFESTS, now, watch, |key, _, modified| {
        images.push((key, modified));
    })
    .await?;

    watch.enter(GcPhase::Read, (images.len() + layers.len()) as u64);
    read_images(storage, images, &marks, &mut inventory, watch).await?;
    read_layers(storage, layers, &mut inventory, watch).await?;
    // The images were listed in any order.
    inventory.images.sort_unstable_by_key(|image| image.key);

    read_manifests(storage, &mut inventory).await?;
    inventory.idle_marks = marks
        .into_iter()
        .filter(|(digest, _)| {
            let id = inventory.find(digest);
            id.is_none_or(|id| inventory.blob(id).size.is_none())
        })
        .map(|(digest, mark)| (digest, mark.modified))
        .collect();
    Ok(inventory)
}

/// Lists what features remember, and looks up what of it is in use.
async fn remembered(
    storage: &dyn Storage,
    retentions: &[Retention],
    now: SystemTime,
    watch: &mut Watch<'_>,
) -> Result<Vec<Remembered>, GcError> {
    let mut listings = Vec::new();
    for retention in retentions {
        let mut entries = Vec::new();
        list(storage, retention.folder, now, watch, |key, _, written| {
            entries.push((key, written));
        })
        .await?;
        listings.push((*retention, entries));
    }
    let mut all = Vec::new();
    for (retention, entries) in listings {
        let remembered = Remembered::look_up(storage, retention, entries).await;
        all.push(remembered.map_err(doing("read"))?);
    }
    Ok(all)
}

/// Reads the entries of images.
async fn read_images(
    storage: &dyn Storage,
    images: Vec<(Key, SystemTime)>,
    marks: &HashMap<Digest, Mark>,
    inventory: &mut Inventory,
    watch: &mut Watch<'_>,
) -> Result<(), GcError> {
    let mut reads = stream::iter(images)
        .map(|(key, modified)| read(storage, key, modified, ImageRecord::MAX_BYTES))
        .buffer_unordered(READS);
    while let Some((key, modified, bytes)) = reads.try_next().await? {
        watch.step();
        let entry = match bytes {
            Read::Gone => continue,
            Read::Damaged => ImageEntry::Unusable,
            Read::Bytes(bytes) => records::image(&key, &bytes),
        };
        match entry {
            ImageEntry::Image(named) => {
                inventory.add_image(key, named, modified, |digest| {
                    let used = marks.get(digest).filter(|mark| mark.is_use);
                    used.map(|mark| mark.modified)
                });
            }
            ImageEntry::Newer => {
                tracing::debug!(%key, "a newer program wrote this cache entry: no blob is deleted");
                inventory.newer += 1;
            }
            ImageEntry::Unusable => inventory.unusable.push((key, modified)),
        }
    }
    Ok(())
}

/// Reads the entries of layers.
async fn read_layers(
    storage: &dyn Storage,
    layers: Vec<(Key, SystemTime)>,
    inventory: &mut Inventory,
    watch: &mut Watch<'_>,
) -> Result<(), GcError> {
    let mut reads = stream::iter(layers)
        .map(|(key, written)| read(storage, key, written, LayerRecord::MAX_BYTES))
        .buffer_unordered(READS);
    while let Some((key, written, bytes)) = reads.try_next().await? {
        watch.step();
        let blob = match bytes {
            Read::Gone => continue,
            Read::Damaged => None,
            Read::Bytes(bytes) => records::layer(&bytes).map(|digest| inventory.id(digest)),
        };
        inventory.builds.push(LayerEntry { key, written, blob });
    }
    Ok(())
}

/// Finds the manifests that no image leads to: those of dropped images, and of images being built.
async fn read_manifests(storage: &dyn Storage, inventory: &mut Inventory) -> Result<(), GcError> {
    let unreferenced = inventory
        .blobs()
        .filter(|(_, blob)| blob.refs == 0 && blob.size.is_some_and(|size| size <= MAX_MANIFEST));
    let unreferenced: Vec<(BlobId, Digest)> =
        unreferenced.map(|(id, blob)| (id, blob.digest)).collect();
    let mut reads = stream::iter(unreferenced)
        .map(|(id, digest)| manifest(storage, id, digest))
        .buffer_unordered(READS);
    while let Some((id, named)) = reads.try_next().await? {
        if let Some(named) = named {
            inventory.add_manifest(id, named);
        }
    }
    drop(reads);
    inventory.settle_manifests();
    Ok(())
}

/// What the blob names, if it is a manifest. Layers are not read: their first chunk tells.
async fn manifest(
    storage: &dyn Storage,
    id: BlobId,
    digest: Digest,
) -> Result<(BlobId, Option<Vec<Digest>>), GcError> {
    let key = Key::blob(digest);
    let read = async {
        let Some(mut reader) = storage.get(&key, None).await? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.body.try_next().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.first() != Some(&b'{') || bytes.len() as u64 > MAX_MANIFEST {
                return Ok(None);
            }
        }
        Ok(records::manifest(&bytes))
    };
    match read.await {
        Ok(named) => Ok((id, named)),
        // Nobody is served by a damaged one.
        Err(StorageError::Truncated { .. }) => Ok((id, None)),
        Err(source) => Err(doing("read")(source)),
    }
}

/// A use mark.
struct Mark {
    modified: SystemTime,
    /// A collector's keeps the blob, and is no use of it.
    is_use: bool,
}

enum Read {
    Bytes(bytes::Bytes),
    Gone,
    Damaged,
}

async fn read(
    storage: &dyn Storage,
    key: Key,
    written: SystemTime,
    limit: u64,
) -> Result<(Key, SystemTime, Read), GcError> {
    let read = match storage.get_bytes(&key, limit).await {
        Ok(Some(bytes)) => Read::Bytes(bytes),
        Ok(None) => Read::Gone,
        Err(StorageError::Truncated { .. } | StorageError::TooLarge { .. }) => Read::Damaged,
        Err(source) => return Err(doing("read")(source)),
    };
    Ok((key, written, read))
}

/// Calls `found` for each entry with a Nixery name; where the store knows no age it is new.
async fn list(
    storage: &dyn Storage,
    folder: Folder,
    now: SystemTime,
    watch: &mut Watch<'_>,
    mut found: impl FnMut(Key, u64, SystemTime),
) -> Result<(), GcError> {
    let mut entries = storage.list(folder).await.map_err(doing("listed"))?;
    while let Some(entry) = entries.try_next().await.map_err(doing("listed"))? {
        watch.step();
        if let Some(key) = entry.key {
            found(key, entry.stat.size, entry.stat.modified.unwrap_or(now));
        }
    }
    Ok(())
}
