//! An OCI layout that a client wrote.

use crate::command::run;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An OCI image layout folder with one image.
#[derive(Debug, Clone)]
pub struct Layout(PathBuf);

impl Layout {
    /// A layout to be written at `image` below the folder.
    pub fn below(folder: &Path) -> Self {
        Self(folder.join("image"))
    }

    /// An existing layout.
    pub fn at(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The digest of the image's manifest.
    ///
    /// # Panics
    /// The layout has no index or no manifest.
    #[track_caller]
    pub fn manifest_digest(&self) -> String {
        let index: Value =
            serde_json::from_slice(&std::fs::read(self.0.join("index.json")).expect("index.json"))
                .expect("JSON");
        index["manifests"][0]["digest"]
            .as_str()
            .expect("a manifest in the index")
            .to_owned()
    }

    /// The image's manifest.
    #[track_caller]
    pub fn manifest(&self) -> Value {
        self.json(&self.manifest_digest())
    }

    /// The image's config.
    #[track_caller]
    pub fn config(&self) -> Value {
        self.json(
            self.manifest()["config"]["digest"]
                .as_str()
                .expect("a config digest"),
        )
    }

    /// The digests of the layers, lowest first.
    #[track_caller]
    pub fn layer_digests(&self) -> Vec<String> {
        let manifest = self.manifest();
        let layers = manifest["layers"].as_array().expect("layers");
        layers
            .iter()
            .map(|layer| layer["digest"].as_str().expect("a layer digest").to_owned())
            .collect()
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.0
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    }

    #[track_caller]
    fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(
            &std::fs::read(self.blob(digest)).expect("the blob is in the layout"),
        )
        .expect("the blob is JSON")
    }

    /// Unpacks the image with umoci and returns its root file system.
    #[track_caller]
    pub fn unpack(&self) -> PathBuf {
        let bundle = self.0.with_extension("bundle");
        run(Command::new("umoci")
            .arg("unpack")
            .arg("--image")
            .arg(format!("{}:latest", self.0.display()))
            .arg(&bundle))
        .success();
        bundle.join("rootfs")
    }
}
