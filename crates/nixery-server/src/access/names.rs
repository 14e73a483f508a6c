//! Which blobs the images of a name have, for callers who may not pull every image.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixery_builder::{Builder, Image};
use nixery_core::{ImageName, Tag};
use nixery_manifest::Digest;
use nixery_state::names::{self, NamedImage};
use nixery_storage::{StorageError, error_chain};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Digests of all names in memory, 32 bytes each.
const MAX_DIGESTS: u64 = 1_000_000;
/// Digests of a usual name, to estimate how many fit.
const USUAL_DIGESTS: u64 = 100;
/// Time between two looks into the store for a digest that a name does not have.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The images of names, as far as they are in memory.
#[derive(Debug)]
pub(super) struct Names(Cache<ImageName, Arc<ImagesOfName>, ByDigests>);

/// The images of one name, the newest first.
#[derive(Debug)]
pub(super) struct ImagesOfName {
    images: Vec<Arc<KnownImage>>,
    read: Instant,
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
        let names = (MAX_DIGESTS / USUAL_DIGESTS) as usize;
        Self(Cache::with_weighter(names, MAX_DIGESTS, ByDigests))
    }
}

impl KnownImage {
    fn new(image: NamedImage) -> Option<Self> {
        let digests = image.manifests.iter().chain(&image.blobs);
        Some(Self {
            digests: digests.copied().collect(),
            tag: Tag::parse(&image.tag).ok()?,
            source: image.source,
            manifests: image.manifests,
            image: image.image,
        })
    }

    /// Whether this is an image of a tag, which a moving source replaces.
    fn is_at(&self, tag: &Tag, source: &str) -> bool {
        self.tag == *tag && self.source == source
    }
}

impl Names {
    /// Finds an image of a name that a test accepts, and that has a digest if one is given. Looks
    /// into the store if no image in memory is accepted, because another server may have answered.
    pub(super) async fn find(
        &self,
        builder: &Builder,
        name: &ImageName,
        digest: Option<&Digest>,
        accepts: impl Fn(&KnownImage) -> bool,
    ) -> Result<Option<Arc<KnownImage>>, StorageError> {
        let wanted = |image: &&Arc<KnownImage>| {
            digest.is_none_or(|digest| image.digests.contains(digest)) && accepts(image)
        };
        let known = self.0.get(name);
        if let Some(known) = &known {
            let found = known.images.iter().find(wanted).cloned();
            if found.is_some() || known.read.elapsed() < LOOK_PAUSE {
                return Ok(found);
            }
        }
        let read = self.read(builder, name, known).await?;
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
        let source = builder.config().source.to_string();
        let known = match self.0.get(name) {
            Some(known) => Ok(known),
            None => self.read(builder, name, None).await,
        };
        let is_newest = |known: &ImagesOfName| {
            let mut of_tag = known.images.iter().filter(|one| one.is_at(tag, &source));
            of_tag.next().is_some_and(|one| one.image == image.key)
        };
        if known.as_ref().is_ok_and(|known| is_newest(known)) {
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
        let secret = builder.config().record_secret.as_ref();
        if let Err(error) = names::save(&**builder.storage(), secret, name, &named).await {
            let error = error_chain(&error);
            tracing::warn!(image = %name, error, "cannot write down under which name an image was served: other servers refuse its blobs to users with limited rights");
        }
        let known = known.ok();
        let images = known.iter().flat_map(|known| &known.images).cloned();
        let newest = KnownImage::new(named).map(Arc::new);
        let images = newest.into_iter().chain(images).collect();
        self.insert(name, images);
    }

    /// Reads the images of a name from the store. Those in memory stay, because a store that cannot
    /// be written to does not have them.
    async fn read(
        &self,
        builder: &Builder,
        name: &ImageName,
        known: Option<Arc<ImagesOfName>>,
    ) -> Result<Arc<ImagesOfName>, StorageError> {
        let secret = builder.config().record_secret.as_ref();
        let stored = names::images_of(&**builder.storage(), secret, name).await?;
        let stored = stored
            .into_iter()
            .filter_map(|stored| KnownImage::new(stored.image));
        let mut images: Vec<_> = stored.map(Arc::new).collect();
        let is_stored = |images: &[Arc<KnownImage>], known: &KnownImage| {
            images
                .iter()
                .any(|one| one.image == known.image && one.is_at(&known.tag, &known.source))
        };
        for image in known.iter().flat_map(|known| &known.images) {
            if !is_stored(&images, image) {
                images.push(Arc::clone(image));
            }
        }
        Ok(self.insert(name, images))
    }

    fn insert(&self, name: &ImageName, mut images: Vec<Arc<KnownImage>>) -> Arc<ImagesOfName> {
        let mut seen = HashSet::new();
        images.retain(|image| seen.insert((image.tag.clone(), image.source.clone(), image.image)));
        let known = Arc::new(ImagesOfName {
            images,
            read: Instant::now(),
        });
        self.0.insert(name.clone(), Arc::clone(&known));
        known
    }
}
