//! OCI image layouts: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use nixery_manifest::Index;
use nixery_storage::Storage;
use serde::{Deserialize, Serialize};

use super::blob_source::on_thread;
use super::{ExportError, Exported, file_error, write_whole};
use crate::image::Image;

/// The only version that exists.
const LAYOUT_VERSION: &str = "1.0.0";
/// The annotation that names an entry of `index.json`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// Writes the image into the OCI layout at `directory` as `reference`, the name that
/// `skopeo copy oci:DIRECTORY:REFERENCE` takes. The manifest is the OCI one, as the registry serves
/// it.
///
/// A missing or empty directory becomes a layout. In an existing layout, the image is added and an
/// image of the same reference is replaced; blobs with the right size are kept. `progress` receives
/// the number of bytes of each chunk.
///
/// # Errors
/// [`ExportError`]; then the layout is unchanged, apart from blobs that nothing refers to.
pub async fn write_oci_layout(
    image: &Image,
    storage: &Arc<dyn Storage>,
    directory: &Path,
    reference: &str,
    progress: impl FnMut(u64) + Send + 'static,
) -> Result<Exported, ExportError> {
    let manifest = image.oci.bytes.clone();
    let mut entry = image.oci.descriptor();
    entry.annotations.insert(REF_NAME.into(), reference.into());
    entry.platform = Some(image.architecture.platform());
    let config = (image.config.digest, image.config.size);
    let layers = image.layers.iter().map(|layer| (layer.digest, layer.size));
    let blobs: Vec<_> = std::iter::once(config).chain(layers).collect();

    let root = directory.to_owned();
    on_thread(storage, progress, directory, move |mut source| {
        let mut index = existing_index(&root)?;
        let folder = root.join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;

        let mut exported = Exported::default();
        for (digest, size) in &blobs {
            let path = folder.join(digest.hex());
            if fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() == *size) {
                exported.blobs_kept += 1;
                source.report(*size);
                continue;
            }
            write_whole(&path, |file| source.copy(digest, *size, file, &path))?;
            exported.bytes_written += size;
        }
        write_bytes(&folder.join(entry.digest.hex()), &manifest)?;
        exported.bytes_written += manifest.len() as u64;

        let layout = LayoutFile {
            image_layout_version: LAYOUT_VERSION.into(),
        };
        let layout = serde_json::to_vec(&layout).unwrap_or_default();
        write_bytes(&root.join("oci-layout"), &layout)?;

        // Last, so that a reader never finds a reference to a blob that is not written yet.
        let name = entry.annotations.get(REF_NAME);
        index
            .manifests
            .retain(|other| other.annotations.get(REF_NAME) != name);
        index.manifests.push(entry);
        write_bytes(&root.join("index.json"), &index.to_bytes())?;
        Ok(exported)
    })
    .await
}

/// Checks that an image can be added at `directory`: it is missing, empty, or an OCI layout. For a
/// check before a long build. Blocks for a short time.
///
/// # Errors
/// As [`write_oci_layout`].
pub fn check_oci_layout(directory: &Path) -> Result<(), ExportError> {
    existing_index(directory).map(drop)
}

/// Returns the index of the layout, an empty one for a new layout.
fn existing_index(directory: &Path) -> Result<Index, ExportError> {
    let layout = directory.join("oci-layout");
    if !layout.exists() {
        let occupied = match fs::read_dir(directory) {
            // An earlier export that was interrupted may have left blobs.
            Ok(entries) => entries
                .map_while(Result::ok)
                .any(|entry| entry.file_name() != "blobs"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
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
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::empty()),
        Err(error) => Err(file_error("read", &path)(error)),
    }
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    write_whole(path, |file| {
        file.write_all(bytes).map_err(file_error("write", path))
    })
}
