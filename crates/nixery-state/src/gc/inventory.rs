//! What is in a store, as far as a collection needs to know: names, sizes, ages, and which image
//! needs which blob. No contents are kept; blobs are numbers.

use std::collections::HashMap;
use std::time::SystemTime;

use nixery_manifest::Digest;
use nixery_storage::Key;

use super::records::NamedBlobs;
use super::remembered::Remembered;

/// Number of a blob in its inventory.
pub(super) type BlobId = u32;

/// A store at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Inventory {
    blobs: Vec<Blob>,
    ids: HashMap<Digest, BlobId>,
    pub(super) images: Vec<Image>,
    /// Entries of `builds/` older than the grace.
    pub(super) builds: Vec<LayerEntry>,
    /// Entries of `manifests/` that no program can use, and when they were written.
    pub(super) unusable: Vec<(Key, SystemTime)>,
    /// Entries of `manifests/` that a newer program wrote.
    pub(super) newer: u64,
    /// Use marks of blobs that are not there, and when they were written.
    pub(super) idle_marks: Vec<(Digest, SystemTime)>,
    /// Leases, and when they were last renewed.
    pub(super) leases: Vec<(Key, SystemTime)>,
    /// What features remember, by folder.
    pub(super) remembered: Vec<Remembered>,
}

/// A blob that is there, or that only something names.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    /// `None` where it is missing.
    pub(super) size: Option<u64>,
    /// When it was last stored or marked, itself or through a manifest that no image leads to.
    pub(super) needed: SystemTime,
    /// Whether an image that leads to it, or anything else, names it is up to `refs`.
    pub(super) refs: u32,
    /// Manifests without an image that name this blob.
    pub(super) parents: Vec<BlobId>,
    /// What this blob names, where it is a manifest without an image.
    pub(super) is_manifest: bool,
}

/// A cached image.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) built: SystemTime,
    pub(super) used: SystemTime,
    /// Those it is served by.
    pub(super) manifests: Box<[BlobId]>,
    /// Every blob it needs, the manifests too, each once.
    pub(super) blobs: Box<[BlobId]>,
}

/// A cached layer.
#[derive(Debug, Clone)]
pub(super) struct LayerEntry {
    pub(super) key: Key,
    pub(super) written: SystemTime,
    /// `None` where the entry cannot be used.
    pub(super) blob: Option<BlobId>,
}

impl Inventory {
    pub(super) fn blob(&self, id: BlobId) -> &Blob {
        &self.blobs[id as usize]
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<BlobId> {
        self.ids.get(digest).copied()
    }

    /// Every blob that is there or is named by something.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (BlobId, &Blob)> {
        (0..).zip(&self.blobs)
    }

    /// The number of a blob, which is given one if it has none: it is missing then.
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

    /// A blob that is there.
    pub(super) fn add_blob(&mut self, digest: Digest, size: u64, needed: SystemTime) {
        let id = self.id(digest);
        let blob = &mut self.blobs[id as usize];
        blob.size = Some(size);
        blob.needed = blob.needed.max(needed);
    }

    /// An image, after all blobs.
    pub(super) fn add_image(
        &mut self,
        key: Key,
        named: NamedBlobs,
        built: SystemTime,
        marked: impl Fn(&Digest) -> Option<SystemTime>,
    ) {
        let marks = named.manifests.iter().filter_map(&marked);
        let used = marks.fold(built, SystemTime::max);
        let ids = |inventory: &mut Self, digests: Vec<Digest>| -> Vec<BlobId> {
            digests
                .into_iter()
                .map(|digest| inventory.id(digest))
                .collect()
        };
        let mut manifests = ids(self, named.manifests);
        if key.is_legacy() {
            // The original kept its manifests elsewhere: there may be no blob of this one.
            manifests.retain(|id| self.blob(*id).size.is_some());
        }
        let mut blobs = ids(self, named.others);
        blobs.extend(&manifests);
        blobs.sort_unstable();
        blobs.dedup();
        for id in &blobs {
            self.blobs[*id as usize].refs += 1;
        }
        self.images.push(Image {
            key,
            name: named.name,
            built,
            used,
            manifests: manifests.into(),
            blobs: blobs.into(),
        });
    }

    /// A manifest that no image leads to: who has it may still ask for what it names.
    pub(super) fn add_manifest(&mut self, id: BlobId, named: Vec<Digest>) {
        self.blobs[id as usize].is_manifest = true;
        for digest in named {
            let child = self.id(digest);
            if child != id {
                self.blobs[child as usize].parents.push(id);
            }
        }
    }

    /// Lets what such manifests name be as much needed as they are. An index names manifests that
    /// name layers: two steps.
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
