//! Which blobs the images of a name have, for callers who may not pull every image.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nixery_builder::{Builder, Image};
use nixery_core::{ImageName, Tag, TagSelection};
use nixery_manifest::Digest;
use nixery_state::names::{self, NamedImage, StoredName};
use nixery_storage::{Key, StorageError, error_chain};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// Digests of all names in memory, 32 bytes each.
const MAX_DIGESTS: u64 = 1_000_000;
/// Digests of a usual name, to estimate how many fit.
const USUAL_DIGESTS: u64 = 100;
/// Time between two looks into the store for a digest that a name does not have.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Time after which the newest image of a tag is looked up again: another server may have built it.
const NEWEST_PAUSE: Duration = Duration::from_secs(10);
/// Images of one name in memory, as many as are read from the store.
const MAX_IMAGES: usize = 1000;
/// Names that are read from the store at once. Others wait.
const READS: usize = 8;
/// Age of what is written down after which it is written again, before a collection removes it.
const WRITE_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// The images of names, as far as they are in memory.
#[derive(Debug)]
pub(super) struct Names {
    cache: Cache<ImageName, Arc<ImagesOfName>, ByDigests>,
    /// Held while images are added, so that none gets lost.
    adding: Mutex<()>,
    /// Each name has one of them, which is held while the name is read from the store. So a name is
    /// read once at a time, however many requests need it, and few names are read at once.
    reading: [tokio::sync::Mutex<()>; READS],
    hasher: RandomState,
}

/// The images of one name, the newest first.
#[derive(Debug)]
pub(super) struct ImagesOfName {
    images: Vec<Arc<KnownImage>>,
    /// When the last look into the store began, if there was one.
    read: Option<Instant>,
}

/// An image that was served under a name.
#[derive(Debug)]
pub(super) struct KnownImage {
    /// The tag.
    pub(super) tag: Tag,
    /// The package source.
    pub(super) source: String,
    /// The manifests.
    pub(super) manifests: Vec<Digest>,
    image: Digest,
    digests: HashSet<Digest>,
    /// When it was last served or written down.
    written: SystemTime,
    /// Whether the store has it, as far as this server knows.
    is_saved: bool,
    /// The object that it was read from, and when that had been written.
    object: Option<(Key, SystemTime)>,
    /// When it was served, or when the look into the store that found it began.
    since: Instant,
}

/// Bounds the names by their digests.
#[derive(Debug, Clone)]
struct ByDigests;

impl Weighter<ImageName, Arc<ImagesOfName>> for ByDigests {
    fn weight(&self, _: &ImageName, name: &Arc<ImagesOfName>) -> u64 {
        let digests = name.images.iter().map(|image| image.digests.len() as u64);
        // The name and the lists need memory, too.
        10 + digests.sum::<u64>()
    }
}

impl Default for Names {
    fn default() -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity((MAX_DIGESTS / USUAL_DIGESTS) as usize)
            .weight_capacity(MAX_DIGESTS)
            // A shard keeps nothing that is heavier than its part of the capacity.
            .shards(1)
            .build()
            .expect("both capacities are set");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self {
            cache: Cache::with_options(options, ByDigests, hasher, lifecycle),
            adding: Mutex::default(),
            reading: Default::default(),
            hasher: RandomState::new(),
        }
    }
}

impl KnownImage {
    fn new(image: NamedImage, written: SystemTime, since: Instant) -> Option<Self> {
        let digests = image.manifests.iter().chain(&image.blobs);
        Some(Self {
            digests: digests.copied().collect(),
            tag: Tag::parse(&image.tag).ok()?,
            source: image.source,
            manifests: image.manifests,
            image: image.image,
            written,
            is_saved: true,
            object: None,
            since,
        })
    }

    /// Returns an image that a look into the store found.
    fn read(stored: StoredName, begun: Instant) -> Option<Self> {
        let written = stored.written.unwrap_or(UNIX_EPOCH);
        let image = Self::new(stored.image, written, begun)?;
        let object = stored.written.map(|written| (stored.key, written));
        Some(Self { object, ..image })
    }

    /// Whether this is an image of a tag, which a moving source replaces.
    fn is_at(&self, tag: &Tag, source: &str) -> bool {
        self.tag == *tag && self.source == source
    }

    fn has(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }
}

impl ImagesOfName {
    /// Whether the newest image of a tag is this one, and was written down a short time ago.
    fn has_as_newest(&self, tag: &Tag, source: &str, image: Digest) -> bool {
        let newest = self.images.iter().find(|one| one.is_at(tag, source));
        newest.is_some_and(|newest| {
            let age = newest.written.elapsed().unwrap_or_default();
            newest.is_saved && newest.image == image && age < WRITE_AGAIN
        })
    }

    /// Whether the last look into the store began a shorter time ago.
    fn was_read_within(&self, pause: Duration) -> bool {
        self.read.is_some_and(|read| read.elapsed() < pause)
    }

    /// Returns the objects that were read, and when they had been written.
    fn objects(&self) -> HashMap<Key, SystemTime> {
        self.images
            .iter()
            .filter_map(|image| image.object)
            .collect()
    }
}

impl Names {
    /// Finds an image of a name that has a digest and that a test accepts. Looks into the store if
    /// no image in memory is accepted, because another server may have served it.
    pub(super) async fn find_with_digest(
        &self,
        builder: &Builder,
        name: &ImageName,
        digest: &Digest,
        accepts: impl Fn(&KnownImage) -> bool,
    ) -> Result<Option<Arc<KnownImage>>, StorageError> {
        let wanted = |image: &&Arc<KnownImage>| image.has(digest) && accepts(image);
        let is_recent =
            |known: &ImagesOfName, found: bool| found || known.was_read_within(LOOK_PAUSE);
        self.find(builder, name, wanted, is_recent).await
    }

    /// Finds the image of a name that was last served at a tag, by any server on the store.
    pub(super) async fn find_newest(
        &self,
        builder: &Builder,
        name: &ImageName,
        tag: &Tag,
        source: &str,
    ) -> Result<Option<Arc<KnownImage>>, StorageError> {
        let wanted = |image: &&Arc<KnownImage>| image.is_at(tag, source);
        let is_recent = |known: &ImagesOfName, found: bool| {
            known.was_read_within(if found { NEWEST_PAUSE } else { LOOK_PAUSE })
        };
        self.find(builder, name, wanted, is_recent).await
    }

    /// Finds an image of a name in memory. Looks into the store if the images in memory are not
    /// recent enough, which depends on whether one of them was found.
    async fn find(
        &self,
        builder: &Builder,
        name: &ImageName,
        wanted: impl Fn(&&Arc<KnownImage>) -> bool,
        is_recent: impl Fn(&ImagesOfName, bool) -> bool,
    ) -> Result<Option<Arc<KnownImage>>, StorageError> {
        if let Some(known) = self.cache.get(name) {
            let found = known.images.iter().find(&wanted).cloned();
            if is_recent(&known, found.is_some()) {
                return Ok(found);
            }
        }
        let read = self.read(builder, name).await?;
        Ok(read.images.iter().find(wanted).cloned())
    }

    /// Writes down that an image was served under a name and a tag, before the client gets it.
    pub(super) async fn remember(
        &self,
        builder: &Builder,
        name: &ImageName,
        tag: &Tag,
        image: &Image,
    ) {
        let config = builder.config();
        let source = match config.source.select(tag, &config.channels) {
            TagSelection::Source(selected) => selected.to_string(),
            _ => config.source.to_string(),
        };
        let known = match self.cache.get(name) {
            Some(known) => Ok(known),
            None => self.read(builder, name).await,
        };
        if known.is_ok_and(|known| known.has_as_newest(tag, &source, image.key)) {
            return;
        }
        let manifests = [Some(&image.oci), image.docker.as_ref()];
        let layers = image.layers.iter().map(|layer| layer.digest);
        let named = NamedImage {
            name: name.as_str().to_owned(),
            tag: tag.as_str().to_owned(),
            source,
            image: image.key,
            manifests: manifests.iter().flatten().map(|one| one.digest).collect(),
            blobs: std::iter::once(image.config.digest).chain(layers).collect(),
        };
        let secret = config.record_secret.as_ref();
        let saved = names::save(&**builder.storage(), secret, name, &named).await;
        if let Err(error) = &saved {
            let error = error_chain(error);
            tracing::warn!(image = %name, error, "cannot write down under which name an image was served: other servers refuse its blobs to users with limited rights");
        }
        let newest = KnownImage::new(named, SystemTime::now(), Instant::now());
        let newest = newest.map(|newest| KnownImage {
            // A store that is read-only is not tried at each pull.
            is_saved: saved.is_ok() || builder.storage().is_read_only(),
            ..newest
        });
        self.add(name, newest.map(Arc::new).into_iter().collect(), None);
    }

    /// Reads the images of a name from the store that are not in memory. Those in memory stay,
    /// because a store that cannot be written to does not have them.
    async fn read(
        &self,
        builder: &Builder,
        name: &ImageName,
    ) -> Result<Arc<ImagesOfName>, StorageError> {
        let asked = Instant::now();
        let number = self.hasher.hash_one(name) as usize % READS;
        let _reading = self.reading[number].lock().await;
        let known = self.cache.get(name);
        // Another request may have read the name in the meantime.
        let is_recent = |read| asked.saturating_duration_since(read) < LOOK_PAUSE;
        if let Some(known) = known
            .as_ref()
            .filter(|known| known.read.is_some_and(is_recent))
        {
            return Ok(Arc::clone(known));
        }
        let secret = builder.config().record_secret.as_ref();
        let begun = Instant::now();
        let objects = known.map_or_else(HashMap::new, |known| known.objects());
        let stored = names::images_of(&**builder.storage(), secret, name, &objects).await?;
        let stored = stored
            .into_iter()
            .filter_map(|stored| KnownImage::read(stored, begun).map(Arc::new));
        Ok(self.add(name, stored.collect(), Some(begun)))
    }

    /// Adds images of a name to those in memory. `read` is when the store was read, if it was.
    fn add(
        &self,
        name: &ImageName,
        mut images: Vec<Arc<KnownImage>>,
        read: Option<Instant>,
    ) -> Arc<ImagesOfName> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.cache.get(name);
        images.extend(known.iter().flat_map(|known| known.images.iter().cloned()));
        // Of an image that is there twice, the one that was learned last is right.
        images.sort_by_key(|image| Reverse(image.since));
        let mut seen = HashSet::new();
        images.retain(|image| seen.insert((image.tag.clone(), image.source.clone(), image.image)));
        images.sort_by_key(|image| Reverse(image.written));
        images.truncate(MAX_IMAGES);
        let read = read.or_else(|| known.and_then(|known| known.read));
        let images = Arc::new(ImagesOfName { images, read });
        self.cache.insert(name.clone(), Arc::clone(&images));
        images
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ImageName {
        ImageName::parse("git").expect("valid")
    }

    /// An image that was written down some seconds ago.
    fn image(tag: &str, contents: &str, age: u64) -> Arc<KnownImage> {
        let named = NamedImage {
            name: "git".to_owned(),
            tag: tag.to_owned(),
            source: "nixpkgs nixos-26.05".to_owned(),
            image: Digest::of(contents.as_bytes()),
            manifests: vec![Digest::of(b"manifest")],
            blobs: vec![Digest::of(b"layer")],
        };
        let written = SystemTime::now() - Duration::from_secs(age);
        let image = KnownImage::new(named, written, Instant::now());
        Arc::new(image.expect("the tag is valid"))
    }

    fn tags(known: &ImagesOfName) -> Vec<&str> {
        known.images.iter().map(|one| one.tag.as_str()).collect()
    }

    #[test]
    fn an_image_that_is_added_during_a_look_into_the_store_stays() {
        let names = Names::default();
        names.add(&name(), vec![image("v1", "1", 10)], None);
        names.add(&name(), vec![image("v2", "2", 0)], None);
        // The look began before they were written down.
        let known = names.add(&name(), vec![image("v0", "0", 20)], Some(Instant::now()));
        assert_eq!(tags(&known), ["v2", "v1", "v0"]);
        let known = names.add(&name(), vec![image("v0", "0", 0)], None);
        assert_eq!(tags(&known), ["v0", "v2", "v1"]);
    }

    #[test]
    fn an_image_is_written_again_if_it_is_old_or_replaced() {
        let (names, tag) = (Names::default(), Tag::latest());
        let is_newest = |known: &ImagesOfName, contents: &str| {
            let image = Digest::of(contents.as_bytes());
            known.has_as_newest(&tag, "nixpkgs nixos-26.05", image)
        };
        let known = names.add(&name(), vec![image("latest", "1", 60)], None);
        assert!(is_newest(&known, "1") && !is_newest(&known, "2"));
        let known = names.add(&name(), vec![image("latest", "2", 30)], None);
        assert!(is_newest(&known, "2") && !is_newest(&known, "1"));
        let days_ago = image("latest", "3", 2 * 24 * 60 * 60);
        let known = Names::default().add(&name(), vec![days_ago], None);
        assert!(!is_newest(&known, "3"));
    }

    #[test]
    fn an_image_that_the_store_refused_is_written_again() {
        let unsaved = Arc::into_inner(image("latest", "1", 0)).expect("not shared");
        let unsaved = KnownImage {
            is_saved: false,
            ..unsaved
        };
        let known = Names::default().add(&name(), vec![Arc::new(unsaved)], None);
        let is_newest =
            known.has_as_newest(&Tag::latest(), "nixpkgs nixos-26.05", Digest::of(b"1"));
        assert_eq!((tags(&known), is_newest), (vec!["latest"], false));
    }

    /// The clock of the store may be behind.
    #[test]
    fn what_a_later_look_into_the_store_finds_replaces_what_is_in_memory() {
        let names = Names::default();
        names.add(&name(), vec![image("v1", "1", 0)], None);
        let read = vec![image("v1", "1", 20), image("v2", "2", 10)];
        let known = names.add(&name(), read, Some(Instant::now()));
        assert_eq!(tags(&known), ["v2", "v1"]);
    }

    #[test]
    fn a_name_with_the_most_images_of_the_most_layers_stays_in_memory() {
        let digest = |number: u32| Digest::of(&number.to_le_bytes());
        let mut images = Vec::new();
        for number in 0..MAX_IMAGES as u32 {
            let image = image("latest", &number.to_string(), 0);
            let mut image = Arc::into_inner(image).expect("not shared");
            image.digests = (number * 130..(number + 1) * 130).map(digest).collect();
            images.push(Arc::new(image));
        }
        let names = Names::default();
        names.add(&name(), images, None);
        let other = ImageName::parse("htop").expect("valid");
        names.add(&other, vec![image("latest", "1", 0)], None);
        let kept = names.cache.get(&name()).expect("is in memory");
        assert_eq!(kept.images.len(), MAX_IMAGES);
    }

    #[test]
    fn the_images_of_a_name_are_bounded() {
        let all = (0..1500).map(|number| image("latest", &number.to_string(), number));
        let known = Names::default().add(&name(), all.collect(), None);
        assert_eq!(known.images.len(), MAX_IMAGES);
        assert_eq!(known.images[0].image, Digest::of(b"0"));
    }
}
