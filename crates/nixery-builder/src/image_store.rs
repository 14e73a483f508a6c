//! Images in the blob store: looked up by their key, served by digest, and saved.

use bytes::Bytes;
use futures::future::try_join_all;
use nixery_manifest::{Descriptor, Digest, MediaType};
use nixery_state::record::{self, ImageRecord, MANIFESTS, MAX_MANIFEST};
use nixery_storage::{Key, StorageError};
use serde::Deserialize;

use crate::config::ImageRequest;
use crate::engine::Engine;
use crate::error::BuildError;
use crate::image::{BuildStats, Image, ManifestBlob};

/// Returns the image that was built for a key, if the store still has all its blobs.
pub(crate) async fn find(
    engine: &Engine,
    key: Digest,
    request: &ImageRequest,
) -> Result<Option<Image>, BuildError> {
    let record = record::load(&*engine.storage, &Key::new(MANIFESTS, key)).await;
    let record: ImageRecord = match record.map_err(BuildError::looked_up)? {
        Some(record) => record,
        None => return Ok(None),
    };
    if !engine.blobs.are_there(record.blobs()).await? {
        tracing::info!(image = %request.name, "blobs of a cached image are missing: building the image again");
        return Ok(None);
    }
    let Some(oci) = find_manifest(engine, &record.oci.digest).await? else {
        return Ok(None);
    };
    let mut docker = None;
    if let Some(descriptor) = &record.docker {
        docker = find_manifest(engine, &descriptor.digest).await?;
        if docker.is_none() {
            return Ok(None);
        }
    }
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
        stats: BuildStats {
            from_cache: true,
            layers_cached: layers.len(),
            ..BuildStats::default()
        },
        layers,
    }))
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

/// Returns the manifest or index with this digest; `None` if the store has none, or a damaged one.
async fn find_manifest(
    engine: &Engine,
    digest: &Digest,
) -> Result<Option<ManifestBlob>, BuildError> {
    let key = Key::blob(*digest);
    let bytes = match engine.storage.get_bytes(&key, MAX_MANIFEST).await {
        Ok(Some(bytes)) => bytes,
        // A blob as large as that is a layer.
        Ok(None) | Err(StorageError::TooLarge { .. }) => return Ok(None),
        Err(source) => return Err(BuildError::looked_up(source)),
    };
    if let Err(error) = digest.verify(&bytes) {
        tracing::error!(%key, %error, "a stored blob is damaged. Fix: find all damaged blobs with `nixery verify`");
        let _ = engine.blobs.report_missing(digest);
        return Ok(None);
    }
    Ok(parse_manifest(engine, *digest, bytes))
}

/// Returns the blob as a manifest if it is one, and notes the sizes of the blobs that it names.
fn parse_manifest(engine: &Engine, digest: Digest, bytes: Bytes) -> Option<ManifestBlob> {
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
    // Layers do not start with a brace: no need to parse megabytes of them.
    if bytes.first() != Some(&b'{') {
        return None;
    }
    let manifest: AnyManifest = serde_json::from_slice(&bytes).ok()?;
    let media_type = manifest.media_type;
    if !media_type.is_manifest() && !media_type.is_index() {
        return None;
    }
    let parts = manifest.layers.iter().chain(&manifest.manifests);
    for blob in parts.chain(&manifest.config) {
        engine.blobs.expect_size(blob.digest, blob.size);
    }
    Some(ManifestBlob {
        media_type,
        digest,
        bytes,
    })
}

/// Stores the manifests of an image whose other blobs are stored, and then its record. A document
/// is stored after everything that it names.
pub(crate) async fn save(engine: &Engine, image: &Image) -> Result<(), BuildError> {
    let stores = image
        .manifests()
        .map(|manifest| engine.blobs.put(manifest.digest, manifest.bytes.clone()));
    try_join_all(stores).await?;
    let record = ImageRecord {
        packages: image.packages.clone(),
        architecture: image.architecture,
        oci: image.oci.descriptor(),
        docker: image.docker.as_ref().map(ManifestBlob::descriptor),
        config: image.config.clone(),
        layers: image.layers.clone(),
    };
    let saved = record::save(&*engine.storage, &Key::new(MANIFESTS, image.key), &record).await;
    saved.map_err(BuildError::stored)
}
