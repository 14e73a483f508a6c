//! Docker archives: the tar that `docker save` writes and `docker load`, `podman load` and
//! `skopeo copy docker-archive:` read, as the Docker image specification 1.2 lays it down
//! (<https://github.com/moby/docker-image-spec/blob/v1.2.0/v1.2.md>, "Combined Image JSON").
//!
//! Layers go in as they are stored, compressed; all three readers take them so. The archive is the
//! same byte for byte whenever the image is.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nixery_manifest::Digest;
use nixery_storage::Storage;
use serde::Serialize;

use super::oci_layout::write_whole;
use super::source::{Blobs, on_thread};
use super::{ExportError, Exported, file_error};
use crate::image::Image;

/// Tar pads everything to blocks.
const BLOCK: usize = 512;
/// Headers and padding are small; blobs come in large chunks and pass through.
const BUFFER_BYTES: usize = 64 * 1024;

/// `manifest.json`, one element per image.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ArchiveManifest {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Writes the image as a docker archive to `file`, replacing what is there; `tags` are the names
/// it gets when it is loaded, `git/htop:latest`. `progress` is told bytes as they are written.
///
/// # Errors
/// [`ExportError`]; then `file` is as it was.
pub async fn write_docker_archive(
    image: &Image,
    storage: &Arc<dyn Storage>,
    file: &Path,
    tags: &[String],
    progress: impl FnMut(u64) + Send + 'static,
) -> Result<Exported, ExportError> {
    let writer = Writer {
        config: (image.config.digest, image.config.size),
        layers: image
            .layers
            .iter()
            .map(|layer| (layer.digest, layer.size))
            .collect(),
        tags: tags.to_vec(),
        file: file.to_owned(),
    };
    on_thread(storage, progress, file, move |source| writer.write(source)).await
}

struct Writer {
    config: (Digest, u64),
    layers: Vec<(Digest, u64)>,
    tags: Vec<String>,
    file: PathBuf,
}

impl Writer {
    fn write(self, mut source: Blobs) -> Result<Exported, ExportError> {
        let path = self.file.clone();
        let mut exported = Exported::default();
        write_whole(&path, |file| {
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
            self.write_entries(&mut source, &mut out, &mut exported)?;
            // The end of a tar: two blocks of zeros.
            out.write_all(&[0; 2 * BLOCK])
                .and_then(|()| out.flush())
                .map_err(file_error("write", &path))
        })?;
        Ok(exported)
    }

    fn write_entries(
        &self,
        source: &mut Blobs,
        out: &mut dyn Write,
        exported: &mut Exported,
    ) -> Result<(), ExportError> {
        let config_name = format!("{}.json", self.config.0.hex());
        // Gzip or zstd: readers look at the bytes, not at the name. Podman and go-containerregistry
        // write this name too.
        let layer_name = |digest: &Digest| format!("{}.tar", digest.hex());
        let manifest = [ArchiveManifest {
            config: config_name.clone(),
            repo_tags: self.tags.clone(),
            layers: self
                .layers
                .iter()
                .map(|(digest, _)| layer_name(digest))
                .collect(),
        }];
        // First: a reader that streams knows what to expect.
        let manifest = serde_json::to_vec(&manifest).unwrap_or_default();
        self.header(out, "manifest.json", manifest.len() as u64)?;
        out.write_all(&manifest)
            .map_err(file_error("write", &self.file))?;
        self.pad(out, manifest.len() as u64)?;

        let mut written = HashSet::new();
        let config = std::iter::once((config_name, self.config));
        let layers = self
            .layers
            .iter()
            .map(|layer| (layer_name(&layer.0), *layer));
        for (name, (digest, size)) in config.chain(layers) {
            if !written.insert(name.clone()) {
                continue;
            }
            self.header(out, &name, size)?;
            source.copy(&digest, size, out, &self.file)?;
            self.pad(out, size)?;
            exported.bytes_written += size;
        }
        Ok(())
    }

    fn header(&self, out: &mut dyn Write, name: &str, size: u64) -> Result<(), ExportError> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).map_err(|_| ExportError::EntryName {
            name: name.to_owned(),
        })?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        out.write_all(header.as_bytes())
            .map_err(file_error("write", &self.file))
    }

    fn pad(&self, out: &mut dyn Write, size: u64) -> Result<(), ExportError> {
        let over = (size % BLOCK as u64) as usize;
        let zeros = [0; BLOCK];
        let padding = &zeros[..(BLOCK - over) % BLOCK];
        out.write_all(padding)
            .map_err(file_error("write", &self.file))
    }
}
