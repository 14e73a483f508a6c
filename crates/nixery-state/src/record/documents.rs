//! Compares the record of an image with the documents of the image.

use nixery_manifest::{ImageConfig, Manifest};

use super::ImageRecord;

/// The label of an image config that names the packages of the image, separated by spaces.
pub const PACKAGES_LABEL: &str = "nixery.packages";

/// The documents of an image, as they are stored.
#[derive(Debug, Clone, Copy)]
pub struct Documents<'a> {
    /// The OCI manifest.
    pub oci: &'a [u8],
    /// The Docker manifest, if the image has one.
    pub docker: Option<&'a [u8]>,
    /// The image config.
    pub config: &'a [u8],
}

/// A record says something else than what it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecordMismatch(pub(super) &'static str);

impl ImageRecord {
    /// Checks that the documents are those of the image that the record describes: its packages,
    /// its architecture, and its layers.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, documents: &Documents<'_>) -> Result<(), RecordMismatch> {
        let Documents {
            oci,
            docker,
            config,
        } = *documents;
        self.check_manifest(oci)?;
        docker.map_or(Ok(()), |docker| self.check_manifest(docker))?;
        self.check_config(config)
    }

    fn check_manifest(&self, manifest: &[u8]) -> Result<(), RecordMismatch> {
        let manifest = Manifest::from_slice(manifest)
            .map_err(|_| RecordMismatch("its manifest is not a manifest"))?;
        let layers = manifest
            .layers
            .iter()
            .map(|layer| (layer.digest, layer.size));
        let recorded = self.layers.iter().map(|layer| (layer.digest, layer.size));
        if !layers.eq(recorded) {
            return Err(RecordMismatch("its manifest has other layers"));
        }
        let config = (manifest.config.digest, manifest.config.size);
        if config != (self.config.digest, self.config.size) {
            return Err(RecordMismatch("its manifest has another config"));
        }
        Ok(())
    }

    fn check_config(&self, config: &[u8]) -> Result<(), RecordMismatch> {
        let config = ImageConfig::from_slice(config)
            .map_err(|_| RecordMismatch("its config is not an image config"))?;
        let diff_ids = self.layers.iter().map(|layer| &layer.diff_id);
        if !config.rootfs.diff_ids.iter().eq(diff_ids) {
            return Err(RecordMismatch("its config has other layers"));
        }
        let platform = self.architecture.platform();
        if (config.architecture, config.os) != (platform.architecture, platform.os) {
            return Err(RecordMismatch("its config is for another platform"));
        }
        let packages = config.config.labels.get(PACKAGES_LABEL);
        if packages.is_none_or(|packages| *packages != self.packages.join(" ")) {
            return Err(RecordMismatch("its config is for other packages"));
        }
        Ok(())
    }
}
