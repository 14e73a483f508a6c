//! Docker archives: the tar files that `docker save` writes, and that `docker load`, `podman load`
//! and `skopeo copy docker-archive:` read. The format is in the Docker image specification 1.2
//! (<https://github.com/moby/docker-image-spec/blob/v1.2.0/v1.2.md>, "Combined Image JSON").
//!
//! Layers are written compressed, as they are stored; all three readers accept this. The bytes of
//! an archive depend on the image alone.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use nixery_storage::Storage;
use serde::Serialize;

use super::blob_source::on_thread;
use super::{ExportError, Exported, file_error, write_whole};
use crate::image::Image;

/// Headers and padding are small; blobs come in large chunks.
const BUFFER_BYTES: usize = 64 * 1024;

/// One image in `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ArchivedImage<'a> {
    config: &'a str,
    repo_tags: &'a [String],
    layers: Vec<&'a str>,
}

/// Writes the image as a Docker archive to `file`, which is replaced. `tags` are the names that the
/// image gets when it is loaded, such as `git/htop:latest`. `progress` receives the number of bytes
/// of each chunk.
///
/// # Errors
/// [`ExportError`]; then `file` is unchanged.
pub async fn write_docker_archive(
    image: &Image,
    storage: &Arc<dyn Storage>,
    file: &Path,
    tags: &[String],
    progress: impl FnMut(u64) + Send + 'static,
) -> Result<Exported, ExportError> {
    let config = &image.config;
    let config_name = format!("{}.json", config.digest.hex());
    // Gzip or zstd: readers look at the bytes, not at the name. Podman and go-containerregistry
    // write this name too.
    let layers = image.layers.iter().map(|layer| {
        let name = format!("{}.tar", layer.digest.hex());
        (name, layer.digest, layer.size)
    });
    let layers: Vec<_> = layers.collect();
    let manifest = [ArchivedImage {
        config: &config_name,
        repo_tags: tags,
        layers: layers.iter().map(|(name, ..)| name.as_str()).collect(),
    }];
    let manifest = serde_json::to_vec(&manifest).unwrap_or_default();
    let mut blobs = vec![(config_name, config.digest, config.size)];
    blobs.extend(layers);
    let mut names = HashSet::new();
    blobs.retain(|(name, ..)| names.insert(name.clone()));

    let path = file.to_owned();
    on_thread(storage, progress, file, move |mut source| {
        let mut exported = Exported::default();
        let failed = || file_error("write", &path);
        write_whole(&path, |file| {
            let buffered = BufWriter::with_capacity(BUFFER_BYTES, file);
            let mut archive = tar::Builder::new(buffered);
            // First, so that a reader of a stream knows what follows.
            let mut header = header();
            header.set_size(manifest.len() as u64);
            archive
                .append_data(&mut header, "manifest.json", &manifest[..])
                .map_err(failed())?;
            for (name, digest, size) in &blobs {
                let mut entry = archive.append_writer(&mut header, name).map_err(failed())?;
                source.copy(digest, *size, &mut entry, &path)?;
                entry.finish().map_err(failed())?;
                exported.bytes_written += size;
            }
            let written = archive.into_inner().and_then(|mut out| out.flush());
            written.map_err(failed())
        })?;
        Ok(exported)
    })
    .await
}

/// Returns the header of a file that depends on nothing but its name and size.
fn header() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
