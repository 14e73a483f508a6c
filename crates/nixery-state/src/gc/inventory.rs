//! The inventory of a store: what a collection needs to know of its objects.
//!
//! These are names, sizes, ages, and which image needs which blob. No contents are kept, and blobs
//! are numbered.
//!
//! Cache entries are read leniently, for the blobs that they name: an entry of a newer program with
//! an unknown architecture must keep its blobs.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_storage::{BLOBS, Folder, Key, Storage, StorageError, StorageErrorKind};
use serde::Deserialize;

use super::{GcError, GcPhase, InUse, ProgressReporter, Retention, age, failed_to};
use crate::lease::LEASES;
use crate::marks::{USES, is_use};
use crate::record::{BUILDS, ImageRecord, LayerRecord, MANIFESTS, MAX_MANIFEST, Record};
use crate::versioned;

/// Objects that are read at once: hides the latency of a remote store.
const READS: usize = 32;

/// Number of a blob in its inventory.
pub(super) type BlobId = u32;

/// A store at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Inventory {
    blobs: Vec<Blob>,
    ids: HashMap<Digest, BlobId>,
    pub(super) images: Vec<CachedImage>,
    /// Entries of `builds/` older than the grace period.
    pub(super) builds: Vec<LayerEntry>,
    /// Entries of `manifests/` that no program can use.
    pub(super) unusable: Vec<ListedObject>,
    /// Number of entries of `manifests/` that a newer program wrote.
    pub(super) newer: u64,
    /// Use marks of blobs that do not exist.
    pub(super) idle_marks: Vec<ListedObject>,
    pub(super) leases: Vec<ListedObject>,
    pub(super) retained: Vec<RetainedFolder>,
}

/// An object of a listed folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListedObject {
    pub(super) key: Key,
    pub(super) size: u64,
    pub(super) written: SystemTime,
}

/// A blob that exists or is named by an entry.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    /// `None` if it does not exist.
    pub(super) size: Option<u64>,
    /// When it was last stored or marked, itself or through a manifest without an image.
    pub(super) needed: SystemTime,
    /// Number of images that need it.
    pub(super) refs: u32,
    /// Manifests without an image that name this blob.
    parents: Vec<BlobId>,
    /// Whether this is a manifest without an image.
    pub(super) is_manifest: bool,
}

/// A cached image.
#[derive(Debug, Clone)]
pub(super) struct CachedImage {
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) built: SystemTime,
    pub(super) used: SystemTime,
    /// The manifests that it is served by.
    pub(super) manifests: Box<[BlobId]>,
    /// Every blob that it needs, with the manifests, each once.
    pub(super) blobs: Box<[BlobId]>,
}

/// A cached layer.
#[derive(Debug, Clone)]
pub(super) struct LayerEntry {
    pub(super) key: Key,
    pub(super) written: SystemTime,
    /// `None` if the entry cannot be used.
    pub(super) blob: Option<BlobId>,
}

/// The objects of a folder with a [`Retention`].
#[derive(Debug, Clone)]
pub(super) struct RetainedFolder {
    pub(super) retention: Retention,
    /// The result of [`InUse::Found`].
    pub(super) found: Option<Vec<Key>>,
    pub(super) objects: Vec<ListedObject>,
}

impl Inventory {
    pub(super) fn blob(&self, id: BlobId) -> &Blob {
        &self.blobs[id as usize]
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<BlobId> {
        self.ids.get(digest).copied()
    }

    /// Returns every blob that exists or is named by an entry.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (BlobId, &Blob)> {
        (0..).zip(&self.blobs)
    }

    /// Returns the manifests without an image that name a blob, and the indexes that name those.
    pub(super) fn ancestors(&self, id: BlobId) -> impl Iterator<Item = BlobId> {
        let parents = self.blob(id).parents.iter().copied();
        parents.flat_map(|parent| {
            let grandparents = self.blob(parent).parents.iter().copied();
            std::iter::once(parent).chain(grandparents)
        })
    }

    /// Returns the number of a blob. A new number stands for a blob that does not exist.
    pub(super) fn id(&mut self, digest: Digest) -> BlobId {
        let next = u32::try_from(self.blobs.len()).unwrap_or(u32::MAX);
        *self.ids.entry(digest).or_insert_with(|| {
            self.blobs.push(Blob {
                digest,
                size: None,
                needed: SystemTime::UNIX_EPOCH,
                refs: 0,
                parents: Vec::new(),
                is_manifest: false,
            });
            next
        })
    }

    fn ids(&mut self, digests: Vec<Digest>) -> Vec<BlobId> {
        digests.into_iter().map(|digest| self.id(digest)).collect()
    }

    /// Adds a blob that exists.
    pub(super) fn add_blob(&mut self, digest: Digest, size: u64, needed: SystemTime) {
        let id = self.id(digest);
        let blob = &mut self.blobs[id as usize];
        blob.size = Some(size);
        blob.needed = blob.needed.max(needed);
    }

    /// Adds an image, after all blobs.
    pub(super) fn add_image(
        &mut self,
        key: Key,
        named: NamedBlobs,
        built: SystemTime,
        marked: impl Fn(&Digest) -> Option<SystemTime>,
    ) {
        let marks = named.manifests.iter().filter_map(&marked);
        let used = marks.fold(built, SystemTime::max);
        let mut manifests = self.ids(named.manifests);
        if key.is_legacy() {
            // The original kept its manifests elsewhere: a blob of this one may not exist.
            manifests.retain(|id| self.blob(*id).size.is_some());
        }
        let mut blobs = self.ids(named.others);
        blobs.extend(&manifests);
        blobs.sort_unstable();
        blobs.dedup();
        for id in &blobs {
            self.blobs[*id as usize].refs += 1;
        }
        self.images.push(CachedImage {
            key,
            name: named.name,
            built,
            used,
            manifests: manifests.into(),
            blobs: blobs.into(),
        });
    }

    /// Adds a manifest without an image: a client that has it may still ask for what it names.
    pub(super) fn add_manifest(&mut self, id: BlobId, named: Vec<Digest>) {
        self.blobs[id as usize].is_manifest = true;
        for child in self.ids(named) {
            if child != id {
                self.blobs[child as usize].parents.push(id);
            }
        }
    }

    /// Makes what manifests without an image name as much needed as they are. An index names
    /// manifests that name layers, so this takes two steps.
    pub(super) fn settle_manifests(&mut self) {
        for _ in 0..2 {
            for child in 0..self.blobs.len() {
                let parents = self.blobs[child].parents.iter();
                let needed = parents.map(|parent| self.blob(*parent).needed).max();
                if let Some(needed) = needed {
                    let child = &mut self.blobs[child];
                    child.needed = child.needed.max(needed);
                }
            }
        }
    }
}

/// Lists and reads the store.
///
/// Marks are listed before blobs, and references to blobs last: objects that are stored meanwhile
/// are young and stay, and no reference to an old blob is overlooked.
pub(super) async fn take_inventory(
    storage: &dyn Storage,
    grace: Duration,
    retentions: &[Retention],
    now: SystemTime,
    progress: &mut ProgressReporter<'_>,
) -> Result<Inventory, GcError> {
    let mut inventory = Inventory::default();
    progress.enter(GcPhase::List, 0);
    let marks = list(storage, USES, now, progress).await?;
    let marks = marks
        .into_iter()
        .filter_map(|mark| Some((mark.key.digest()?, mark)));
    let marks: HashMap<Digest, ListedObject> = marks.collect();
    inventory.leases = list(storage, LEASES, now, progress).await?;
    for retention in retentions {
        inventory.retained.push(RetainedFolder {
            retention: *retention,
            found: None,
            objects: list(storage, retention.folder, now, progress).await?,
        });
    }
    for retained in &mut inventory.retained {
        if let InUse::Found(find) = retained.retention.in_use {
            retained.found = find(storage).await.map_err(failed_to("read"))?;
        }
    }
    for blob in list(storage, BLOBS, now, progress).await? {
        if let Some(digest) = blob.key.digest() {
            let marked = marks.get(&digest).map_or(blob.written, |mark| mark.written);
            inventory.add_blob(digest, blob.size, blob.written.max(marked));
        }
    }
    let mut layers = list(storage, BUILDS, now, progress).await?;
    layers.retain(|layer| age(now, layer.written) > grace);
    let images = list(storage, MANIFESTS, now, progress).await?;

    progress.enter(GcPhase::Read, (images.len() + layers.len()) as u64);
    read_images(storage, images, &marks, &mut inventory, progress).await?;
    read_layers(storage, layers, &mut inventory, progress).await?;
    // The order of the listing is not definite.
    inventory.images.sort_unstable_by_key(|image| image.key);

    read_manifests(storage, &mut inventory).await?;
    let exists = |digest| {
        let id = inventory.find(digest);
        id.is_some_and(|id| inventory.blob(id).size.is_some())
    };
    let idle = marks.iter().filter(|(digest, _)| !exists(digest));
    inventory.idle_marks = idle.map(|(_, mark)| *mark).collect();
    Ok(inventory)
}

/// Lists the objects of a folder that have a name of Nixery. In a store without times they are new.
async fn list(
    storage: &dyn Storage,
    folder: Folder,
    now: SystemTime,
    progress: &mut ProgressReporter<'_>,
) -> Result<Vec<ListedObject>, GcError> {
    let mut objects = Vec::new();
    let mut entries = storage.list(folder).await.map_err(failed_to("listed"))?;
    while let Some(entry) = entries.try_next().await.map_err(failed_to("listed"))? {
        progress.step();
        if let Some(key) = entry.key {
            objects.push(ListedObject {
                key,
                size: entry.stat.size,
                written: entry.stat.modified.unwrap_or(now),
            });
        }
    }
    Ok(objects)
}

/// Reads the entries of images.
async fn read_images(
    storage: &dyn Storage,
    images: Vec<ListedObject>,
    marks: &HashMap<Digest, ListedObject>,
    inventory: &mut Inventory,
    progress: &mut ProgressReporter<'_>,
) -> Result<(), GcError> {
    let mut reads = read_all(storage, images, ImageRecord::MAX_BYTES);
    while let Some((object, bytes)) = reads.try_next().await? {
        progress.step();
        let key = object.key;
        let entry = match bytes {
            None => continue,
            Some(Err(_)) => ImageEntry::Unusable,
            Some(Ok(bytes)) => parse_image(&key, &bytes),
        };
        match entry {
            ImageEntry::Image(named) => {
                inventory.add_image(key, named, object.written, |digest| {
                    let used = marks.get(digest).filter(|mark| is_use(mark.size));
                    used.map(|mark| mark.written)
                });
            }
            ImageEntry::Newer => {
                tracing::debug!(%key, "a newer program wrote this cache entry: no blob is deleted");
                inventory.newer += 1;
            }
            ImageEntry::Unusable => inventory.unusable.push(object),
        }
    }
    Ok(())
}

/// Reads the entries of layers.
async fn read_layers(
    storage: &dyn Storage,
    layers: Vec<ListedObject>,
    inventory: &mut Inventory,
    progress: &mut ProgressReporter<'_>,
) -> Result<(), GcError> {
    let mut reads = read_all(storage, layers, LayerRecord::MAX_BYTES);
    while let Some((ListedObject { key, written, .. }, bytes)) = reads.try_next().await? {
        progress.step();
        let Some(bytes) = bytes else { continue };
        let digest = bytes.ok().and_then(|bytes| parse_layer(&bytes));
        let blob = digest.map(|digest| inventory.id(digest));
        inventory.builds.push(LayerEntry { key, written, blob });
    }
    Ok(())
}

/// An object, and its bytes: nothing if it is gone, an error if it is damaged.
type ReadObject = (ListedObject, Option<Result<Bytes, StorageError>>);

/// Reads objects, several at once.
fn read_all(
    storage: &dyn Storage,
    objects: Vec<ListedObject>,
    limit: u64,
) -> impl Stream<Item = Result<ReadObject, GcError>> {
    let read = move |object| read_object(storage, object, limit);
    stream::iter(objects).map(read).buffer_unordered(READS)
}

async fn read_object(
    storage: &dyn Storage,
    object: ListedObject,
    limit: u64,
) -> Result<ReadObject, GcError> {
    let bytes = storage.get_bytes(&object.key, limit).await;
    let is_damage = |error: &StorageError| {
        let kind = error.kind();
        kind == StorageErrorKind::Truncated || kind == StorageErrorKind::TooLarge
    };
    match bytes {
        Err(error) if !is_damage(&error) => Err(failed_to("read")(error)),
        bytes => Ok((object, bytes.transpose())),
    }
}

/// Finds the manifests without an image: those of dropped images, and of images being built.
async fn read_manifests(storage: &dyn Storage, inventory: &mut Inventory) -> Result<(), GcError> {
    let unreferenced = inventory
        .blobs()
        .filter(|(_, blob)| blob.refs == 0 && blob.size.is_some_and(|size| size <= MAX_MANIFEST));
    let unreferenced: Vec<(BlobId, Digest)> =
        unreferenced.map(|(id, blob)| (id, blob.digest)).collect();
    let mut reads = stream::iter(unreferenced)
        .map(|(id, digest)| read_manifest(storage, id, digest))
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

/// Returns what the blob names, if it is a manifest. Of a layer only the first chunk is read. A
/// damaged manifest is read once more, as the connection may be at fault; if it is damaged again,
/// it is not served either.
async fn read_manifest(
    storage: &dyn Storage,
    id: BlobId,
    digest: Digest,
) -> Result<(BlobId, Option<Vec<Digest>>), GcError> {
    let read = async {
        for _ in 0..2 {
            let Some(mut reader) = storage.get(&Key::blob(digest), None).await? else {
                return Ok(None);
            };
            let mut bytes = Vec::new();
            while let Some(chunk) = reader.body.try_next().await? {
                bytes.extend_from_slice(&chunk);
                if bytes.first() != Some(&b'{') || bytes.len() as u64 > MAX_MANIFEST {
                    return Ok(None);
                }
            }
            if digest.verify(&bytes).is_ok() {
                return Ok(parse_manifest(&bytes));
            }
        }
        Ok(None)
    };
    match read.await {
        Ok(named) => Ok((id, named)),
        // A damaged manifest is not served.
        Err(StorageError::Truncated { .. }) => Ok((id, None)),
        Err(source) => Err(failed_to("read")(source)),
    }
}

/// An entry of `manifests/`.
#[derive(Debug, PartialEq, Eq)]
enum ImageEntry {
    Image(NamedBlobs),
    /// A newer program wrote it: the blobs that it needs are unknown.
    Newer,
    /// No program can use it.
    Unusable,
}

/// The blobs that an image needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NamedBlobs {
    /// For people.
    pub(super) name: String,
    /// The manifests that it is served by.
    pub(super) manifests: Vec<Digest>,
    /// Config and layers.
    pub(super) others: Vec<Digest>,
}

#[derive(Deserialize)]
struct BlobReference {
    digest: Digest,
}

/// The fields of an [`ImageRecord`] that name blobs. Any architecture is accepted.
#[derive(Deserialize)]
struct ImageReferences {
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    architecture: serde_json::Value,
    oci: BlobReference,
    docker: Option<BlobReference>,
    config: BlobReference,
    layers: Vec<BlobReference>,
}

/// Parses an entry of `manifests/`.
fn parse_image(key: &Key, bytes: &[u8]) -> ImageEntry {
    if key.is_legacy() {
        // The original stores the manifest itself.
        return match parse_manifest(bytes) {
            Some(others) => ImageEntry::Image(NamedBlobs {
                name: format!("the original's {}", &key.name()[..12]),
                manifests: vec![Digest::of(bytes)],
                others,
            }),
            None => ImageEntry::Unusable,
        };
    }
    // Older programs on the store use entries of older versions, which name blobs in the same way.
    let image: ImageReferences = match versioned::version(bytes) {
        Ok(version) if version > u64::from(ImageRecord::VERSION) => return ImageEntry::Newer,
        Ok(_) => match serde_json::from_slice(bytes) {
            Ok(image) => image,
            Err(_) => return ImageEntry::Unusable,
        },
        Err(_) => return ImageEntry::Unusable,
    };
    let manifests = [Some(image.oci), image.docker].into_iter().flatten();
    let others = std::iter::once(image.config).chain(image.layers);
    ImageEntry::Image(NamedBlobs {
        name: display_name(&image.packages, &image.architecture),
        manifests: manifests.map(|blob| blob.digest).collect(),
        others: others.map(|blob| blob.digest).collect(),
    })
}

/// Returns a name like `git htop arm64`, without what every image has.
fn display_name(packages: &[String], architecture: &serde_json::Value) -> String {
    let everywhere = ["cacert", "iana-etc"];
    let mut words: Vec<&str> = packages.iter().map(String::as_str).collect();
    words.retain(|word| !everywhere.contains(word));
    words.extend(architecture.as_str().filter(|name| *name != "amd64"));
    if words.is_empty() {
        return "(no packages)".to_owned();
    }
    words.join(" ")
}

/// Returns what a manifest or an index names, if the bytes are one.
fn parse_manifest(bytes: &[u8]) -> Option<Vec<Digest>> {
    #[derive(Deserialize)]
    struct Manifest {
        config: Option<BlobReference>,
        #[serde(default)]
        layers: Vec<BlobReference>,
        #[serde(default)]
        manifests: Vec<BlobReference>,
    }
    if bytes.first() != Some(&b'{') {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
    let named = manifest.config.into_iter().chain(manifest.layers);
    let named = named.chain(manifest.manifests).map(|blob| blob.digest);
    Some(named.collect()).filter(|named: &Vec<_>| !named.is_empty())
}

/// Returns the blob that an entry of `builds/` names, ours or the original's.
fn parse_layer(bytes: &[u8]) -> Option<Digest> {
    let blob = serde_json::from_slice::<BlobReference>(bytes).ok()?;
    Some(blob.digest)
}
