//! Takes the inventory of a store.

use std::collections::HashMap;
use std::time::SystemTime;

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_storage::{BLOBS, Folder, Key, Storage, StorageError};

use super::inventory::{BlobId, Inventory, LayerEntry, age};
use super::records::{self, ImageEntry};
use super::remembered::{KINDS, Remembered};
use super::{GcError, GcPhase, GcPolicy, Watch, doing};
use crate::engine::MAX_MANIFEST;
use crate::learned::PLANS;
use crate::learned::plans_in_use;
use crate::lease::LEASES;
use crate::record::MAX_RECORD;
use crate::record::{BUILDS, MANIFESTS};
use crate::uses::USES;
use crate::uses::is_use;

/// Objects read at once: hides a remote store's latency.
const READS: usize = 32;
/// Most bytes of an entry of `builds/`: a few hundred.
const MAX_LAYER_ENTRY: u64 = 1024 * 1024;

/// Lists and reads the store.
///
/// Marks are listed before blobs, and what refers to blobs last: what is stored meanwhile is young
/// and stays, and no reference to an old blob is overlooked.
pub(super) async fn survey(
    storage: &dyn Storage,
    policy: &GcPolicy,
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
    for kind in KINDS {
        list(storage, kind, now, watch, |key, _, written| {
            inventory.remembered.push(Remembered { key, written });
        })
        .await?;
    }
    // After the listing: a plan that is put into use meanwhile is young.
    let in_use = plans_in_use(storage).await.map_err(doing("read"))?;
    inventory.plans_in_use = in_use.unwrap_or_else(|| {
        let remembered = inventory.remembered.iter();
        let plans = remembered.filter(|entry| entry.key.folder() == PLANS);
        plans.filter_map(|entry| entry.key.digest()).collect()
    });
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
    let mut reads = stream::iter(images)
        .map(|(key, modified)| read(storage, key, modified, MAX_RECORD))
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
    drop(reads);
    let mut reads = stream::iter(layers)
        .map(|(key, written)| read(storage, key, written, MAX_LAYER_ENTRY))
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
    drop(reads);
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
