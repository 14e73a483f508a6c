//! OCI image layouts: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nixery_manifest::{Descriptor, Digest, Index, Platform};
use nixery_storage::Storage;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::source::{Blobs, on_thread};
use super::{ExportError, Exported, file_error};
use crate::image::Image;

/// The only version there is.
const LAYOUT_VERSION: &str = "1.0.0";
/// Names an entry of `index.json`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// Writes the image into the OCI layout at `directory` as `reference`, the name that
/// `skopeo copy oci:DIRECTORY:REFERENCE` takes. The manifest is the OCI one, byte for byte as the
/// registry serves it.
///
/// A missing or empty directory becomes a layout; an existing layout gets the image added, and an
/// image of the same reference replaced. Blobs that are there with the right size are kept.
/// `progress` is told bytes as they are written.
///
/// # Errors
/// [`ExportError`]; then the layout is as it was, apart from blobs that nothing refers to.
pub async fn write_oci_layout(
    image: &Image,
    storage: &Arc<dyn Storage>,
    directory: &Path,
    reference: &str,
    progress: impl FnMut(u64) + Send + 'static,
) -> Result<Exported, ExportError> {
    let mut entry = Descriptor::new(
        image.oci.media_type.clone(),
        image.oci.digest,
        image.oci.bytes.len() as u64,
    );
    entry.annotations.insert(REF_NAME.into(), reference.into());
    entry.platform = Some(Platform {
        architecture: image.architecture.oci_name().into(),
        os: "linux".into(),
        variant: None,
    });
    let config = (image.config.digest, image.config.size);
    let layers = image.layers.iter().map(|layer| (layer.digest, layer.size));
    let writer = Writer {
        blobs: std::iter::once(config).chain(layers).collect(),
        manifest: image.oci.bytes.clone(),
        entry,
        directory: directory.to_owned(),
    };
    on_thread(storage, progress, directory, move |source| {
        writer.write(source)
    })
    .await
}

struct Writer {
    /// Config and layers.
    blobs: Vec<(Digest, u64)>,
    manifest: bytes::Bytes,
    entry: Descriptor,
    directory: PathBuf,
}

impl Writer {
    fn write(self, mut source: Blobs) -> Result<Exported, ExportError> {
        let mut index = existing_index(&self.directory)?;
        let folder = self.directory.join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;

        let mut exported = Exported::default();
        for (digest, size) in &self.blobs {
            let path = folder.join(digest.hex());
            if fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() == *size) {
                exported.blobs_kept += 1;
                source.skip(*size);
                continue;
            }
            write_whole(&path, |file| source.copy(digest, *size, file, &path))?;
            exported.bytes_written += size;
        }
        let path = folder.join(self.entry.digest.hex());
        write_bytes(&path, &self.manifest)?;
        exported.bytes_written += self.manifest.len() as u64;

        let layout = LayoutFile {
            image_layout_version: LAYOUT_VERSION.into(),
        };
        let layout = serde_json::to_vec(&layout).unwrap_or_default();
        write_bytes(&self.directory.join("oci-layout"), &layout)?;

        // Last, so that readers never see a reference to a blob that is not there yet.
        let name = self.entry.annotations.get(REF_NAME);
        index
            .manifests
            .retain(|other| other.annotations.get(REF_NAME) != name);
        index.manifests.push(self.entry);
        write_bytes(&self.directory.join("index.json"), &index.to_bytes())?;
        Ok(exported)
    }
}

/// Tells whether an image could be added at `directory`: it is missing, empty, or an OCI layout.
/// For finding out before a long build. Blocks shortly.
///
/// # Errors
/// What [`write_oci_layout`] would say.
pub fn check_oci_layout(directory: &Path) -> Result<(), ExportError> {
    existing_index(directory).map(drop)
}

/// The index to add to; an empty one for a new layout.
fn existing_index(directory: &Path) -> Result<Index, ExportError> {
    let layout = directory.join("oci-layout");
    if !layout.exists() {
        let occupied = match fs::read_dir(directory) {
            // What an earlier export that was cut off may have left.
            Ok(entries) => entries
                .map_while(Result::ok)
                .any(|entry| entry.file_name() != "blobs"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(file_error("read", directory)(error)),
        };
        if occupied {
            return Err(ExportError::NotALayout {
                path: directory.to_owned(),
            });
        }
        return Ok(Index::empty());
    }
    let bytes = fs::read(&layout).map_err(file_error("read", &layout))?;
    let version = serde_json::from_slice::<LayoutFile>(&bytes)
        .map_or_else(|_| String::new(), |layout| layout.image_layout_version);
    if version != LAYOUT_VERSION {
        return Err(ExportError::LayoutVersion {
            path: directory.to_owned(),
            version,
        });
    }
    let path = directory.join("index.json");
    match fs::read(&path) {
        Ok(bytes) => {
            Index::from_slice(&bytes).map_err(|source| ExportError::DamagedIndex { path, source })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index::empty()),
        Err(error) => Err(file_error("read", &path)(error)),
    }
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    write_whole(path, |file| {
        file.write_all(bytes).map_err(file_error("write", path))
    })
}

/// Writes to a temporary file next to `path`, and gives it its name when it is whole.
pub(super) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut file = new_file(path)?;
    write(file.as_file_mut())?;
    file.persist(path)
        .map(drop)
        .map_err(|error| file_error("write", path)(error.error))
}

fn new_file(path: &Path) -> Result<NamedTempFile, ExportError> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .prefix(".nixery-")
        // As any program makes files: the umask takes away what the user does not want.
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(super::parent(path))
        .map_err(file_error("write", path))
}
