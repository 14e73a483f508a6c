//! Images in the blob store: looked up by their key, served by digest, and saved.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{try_join_all, try_join3};
use nixery_manifest::{Descriptor, Digest, MediaType};
use nixery_state::record::{self, Documents, ImageRecord, MANIFESTS, MAX_MANIFEST};
use nixery_storage::{ByteRange, Key, StorageError};
use serde::Deserialize;

use crate::config::ImageRequest;
use crate::engine::Engine;
use crate::error::BuildError;
use crate::image::{BuildStats, Image, ManifestBlob};

/// Bytes that are read of a blob that may be a manifest. Most manifests have less.
const FIRST: u64 = 64 * 1024;
/// How often a document is read until it counts as damaged.
const READINGS: usize = 2;

/// Returns the image that was built for a key, if the store still has all its blobs.
///
/// # Errors
/// The store failed, or the image is larger than the server allows now.
pub(crate) async fn find(
    engine: &Engine,
    key: Digest,
    request: &ImageRequest,
) -> Result<Option<Image>, BuildError> {
    let (entry, secret) = (
        Key::new(MANIFESTS, key),
        engine.config.record_secret.as_ref(),
    );
    let record = record::load(&*engine.storage, secret, &entry).await;
    let record: ImageRecord = match record.map_err(BuildError::looked_up)? {
        Some(record) => record,
        None => return Ok(None),
    };
    if (&*record.packages, record.architecture)
        != (request.name.packages(), request.name.architecture())
    {
        tracing::warn!(image = %request.name, key = %entry, "the record of an image is for other packages: building the image again");
        return Ok(None);
    }
    if !engine.blobs.are_there(record.blobs()).await? {
        tracing::info!(image = %request.name, "blobs of a cached image are missing: building the image again");
        return Ok(None);
    }
    let Some((oci, docker)) = find_documents(engine, &record, request).await? else {
        return Ok(None);
    };
    let sizes = record.layers.iter().map(|layer| layer.size);
    let size = sizes.fold(0, u64::saturating_add);
    // The documents have confirmed the sizes of the record.
    engine.config.check_layers(size)?;
    let mut layers = record.layers;
    layers.iter_mut().for_each(|layer| layer.cached = true);
    Ok(Some(Image {
        key,
        name: request.name.canonical().to_owned(),
        packages: record.packages,
        architecture: record.architecture,
        docker,
        oci,
        config: record.config,
        versions: record.versions.map(Arc::new),
        stats: BuildStats {
            from_cache: true,
            layers_cached: layers.len(),
            ..BuildStats::default()
        },
        layers,
    }))
}

/// Returns the OCI and the Docker manifest of an image, if the store has them and they are what the
/// record says.
async fn find_documents(
    engine: &Engine,
    record: &ImageRecord,
    request: &ImageRequest,
) -> Result<Option<(ManifestBlob, Option<ManifestBlob>)>, BuildError> {
    let manifest = async |descriptor: &Descriptor| {
        match find_manifest(engine, &descriptor.digest).await {
            // The build stores it again.
            Err(BuildError::Damaged { .. }) => Ok(None),
            found => found,
        }
    };
    let docker = async {
        match &record.docker {
            Some(docker) => manifest(docker).await.map(|found| found.map(Some)),
            None => Ok(Some(None)),
        }
    };
    let config = find_config(engine, &record.config);
    let (oci, docker, config) = try_join3(manifest(&record.oci), docker, config).await?;
    let (Some(oci), Some(docker), Some(config)) = (oci, docker, config) else {
        return Ok(None);
    };
    let documents = Documents {
        oci: &oci.bytes,
        docker: docker.as_ref().map(|docker| &*docker.bytes),
        config: &config,
    };
    if let Err(error) = record.check(&documents) {
        tracing::warn!(image = %request.name, %error, "the record of an image is wrong: building the image again");
        return Ok(None);
    }
    Ok(Some((oci, docker)))
}

/// Returns the config of an image, or `None` if the store has none or a damaged one.
async fn find_config(engine: &Engine, config: &Descriptor) -> Result<Option<Bytes>, BuildError> {
    let key = Key::blob(config.digest);
    for _ in 0..READINGS {
        let bytes = match engine.storage.get_bytes(&key, MAX_MANIFEST).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(StorageError::TooLarge { .. }) => return Ok(None),
            Err(error) => return Err(BuildError::looked_up(error)),
        };
        let matches = engine.blobs.hashing.matches(&bytes, config.digest).await;
        if matches.map_err(BuildError::looked_up)? {
            return Ok(Some(bytes));
        }
        tracing::error!(%key, "a stored blob is damaged");
    }
    let _ = engine.blobs.report_missing(&config.digest);
    Ok(None)
}

/// Returns the manifest or index with this digest, to be served. The blobs that it names stay for
/// the client to fetch, even if no record of an image names it any more.
pub(crate) async fn manifest_to_serve(
    engine: &Engine,
    digest: &Digest,
) -> Result<Option<ManifestBlob>, BuildError> {
    let Some(manifest) = find_manifest(engine, digest).await? else {
        return Ok(None);
    };
    let size = manifest.bytes.len() as u64;
    match engine.blobs.hold(*digest, size).await {
        Ok(there) => Ok(there.then_some(manifest)),
        // A store that can be read but not written still serves.
        Err(error) => {
            tracing::warn!(%digest, %error, "cannot mark a blob as used");
            Ok(Some(manifest))
        }
    }
}

/// Returns the manifest or index with this digest; `None` if the store has none.
///
/// A layer costs no more than its first bytes, whatever its size.
async fn find_manifest(
    engine: &Engine,
    digest: &Digest,
) -> Result<Option<ManifestBlob>, BuildError> {
    for _ in 0..READINGS {
        let bytes = read_manifest(engine, digest).await;
        let Some(bytes) = bytes.map_err(BuildError::looked_up)? else {
            return Ok(None);
        };
        let (digest, size) = (*digest, bytes.len());
        let parse = move || digest.verify(&bytes).map(|()| parse_manifest(bytes));
        let parsed = engine.blobs.hashing.run(size, parse).await;
        match parsed.map_err(BuildError::looked_up)? {
            Ok(parsed) => return Ok(parsed.map(|parsed| parsed.note(engine, digest))),
            Err(error) => tracing::error!(%digest, %error, "a stored blob is damaged"),
        }
    }
    let _ = engine.blobs.report_missing(digest);
    Err(BuildError::Damaged { digest: *digest })
}

/// Reads a blob that may be a manifest. `None` if there is none, or if its size or its first bytes
/// show that it is no manifest.
async fn read_manifest(engine: &Engine, digest: &Digest) -> Result<Option<Bytes>, StorageError> {
    let key = Key::blob(*digest);
    let first = engine.storage.get(&key, Some(ByteRange::new(0, FIRST)));
    let reader = match first.await {
        Ok(Some(reader)) => reader,
        // An empty blob is no manifest either.
        Ok(None) | Err(StorageError::RangeNotSatisfiable { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = reader.stat.size;
    if size > MAX_MANIFEST {
        return Ok(None);
    }
    let first = reader.bytes().await?;
    if size <= FIRST {
        return Ok(Some(first));
    }
    // Layers do not start with a brace.
    if first.first() != Some(&b'{') {
        return Ok(None);
    }
    match engine.storage.get_bytes(&key, MAX_MANIFEST).await {
        Err(StorageError::TooLarge { .. }) => Ok(None),
        whole => whole,
    }
}

/// A blob that is a manifest or an index.
struct ParsedManifest {
    media_type: MediaType,
    bytes: Bytes,
    /// The blobs that it names, with their sizes.
    named: Vec<(Digest, u64)>,
}

/// Returns the blob as a manifest if it is one.
fn parse_manifest(bytes: Bytes) -> Option<ParsedManifest> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct AnyManifest {
        media_type: MediaType,
        config: Option<Descriptor>,
        #[serde(default)]
        layers: Vec<Descriptor>,
        #[serde(default)]
        manifests: Vec<Descriptor>,
    }
    if bytes.first() != Some(&b'{') {
        return None;
    }
    let manifest: AnyManifest = serde_json::from_slice(&bytes).ok()?;
    let media_type = manifest.media_type;
    if !media_type.is_manifest() && !media_type.is_index() {
        return None;
    }
    let parts = manifest.layers.iter().chain(&manifest.manifests);
    let named = parts.chain(&manifest.config);
    let named = named.map(|blob| (blob.digest, blob.size)).collect();
    Some(ParsedManifest {
        media_type,
        bytes,
        named,
    })
}

impl ParsedManifest {
    /// Notes the sizes of the blobs that it names.
    fn note(self, engine: &Engine, digest: Digest) -> ManifestBlob {
        for (blob, size) in self.named {
            engine.blobs.expect_size(blob, size);
        }
        ManifestBlob {
            media_type: self.media_type,
            digest,
            bytes: self.bytes,
        }
    }
}

/// Stores the manifests of an image whose other blobs are stored, and then its record. A document
/// is stored after everything that it names.
pub(crate) async fn save(engine: &Engine, image: &Image) -> Result<(), BuildError> {
    let stores = image
        .manifests()
        .map(|manifest| engine.blobs.put(manifest.digest, manifest.bytes.clone()));
    try_join_all(stores).await?;
    save_record(engine, image).await
}

/// Stores the record of an image whose blobs are all stored.
pub(crate) async fn save_record(engine: &Engine, image: &Image) -> Result<(), BuildError> {
    let record = ImageRecord {
        packages: image.packages.clone(),
        architecture: image.architecture,
        oci: image.oci.descriptor(),
        docker: image.docker.as_ref().map(ManifestBlob::descriptor),
        config: image.config.clone(),
        layers: image.layers.clone(),
        versions: image.versions.as_deref().cloned(),
    };
    let (key, secret) = (
        Key::new(MANIFESTS, image.key),
        engine.config.record_secret.as_ref(),
    );
    let saved = record::save(&*engine.storage, secret, &key, &record).await;
    saved.map_err(BuildError::stored)
}
