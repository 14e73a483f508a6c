//! An image to serve, built into a store by the builder itself with a made-up Nix.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use nixery_builder::{Builder, BuilderConfig, ImageRequest};
use nixery_core::{ImageName, PackageSource, ReferenceGraph, StorePath, StoreRoot, Tag};
use nixery_manifest::Digest;
use nixery_nix::{
    BuildLog, EvaluatedPackage, Evaluation, EvaluationRequest, Finding, Nix, NixError,
};
use nixery_storage::FilesystemStorage;

use crate::Result;

/// The pinned source: what is built from it is found in the store by its tag, without Nix.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// As long a name as people ask for.
const NAME: &str = "large/git/htop";
/// Store paths that all packages need, a layer each: a manifest of about 7 kB.
const LIBRARIES: usize = 30;
/// Bytes of the large one, which cannot be compressed.
const LARGE: usize = 200_000_000;

/// What is asked for.
pub(crate) struct Image {
    /// Path of the manifest by tag.
    pub(crate) manifest: String,
    /// Path of the large layer.
    pub(crate) blob: String,
    pub(crate) blob_bytes: u64,
    /// Where the store has it.
    pub(crate) blob_file: PathBuf,
}

/// Builds an image into `folder/store`.
pub(crate) fn make(folder: &Path) -> Result<Image> {
    tokio::runtime::Runtime::new()?.block_on(build(folder))
}

async fn build(folder: &Path) -> Result<Image> {
    let store = folder.join("store");
    let root = folder.join("packages");
    let config = BuilderConfig::new(PackageSource::channel(COMMIT)?, folder.join("spool"));
    let nix = Arc::new(MadeUp(StoreRoot::new(&root)));
    let storage = Arc::new(FilesystemStorage::open(&store)?);
    let builder = Builder::new(config, nix, storage).await?;
    let request = ImageRequest {
        name: ImageName::parse(NAME)?,
        tag: Tag::latest(),
    };
    let image = builder.start(request).wait().await?;
    fs::remove_dir_all(root)?;
    let large = image.layers.iter().max_by_key(|layer| layer.size);
    let large = large.ok_or("an image without layers")?;
    Ok(Image {
        manifest: format!("/v2/{NAME}/manifests/latest"),
        blob: format!("/v2/{NAME}/blobs/{}", large.digest),
        blob_bytes: large.size,
        blob_file: store.join("layers").join(large.digest.hex()),
    })
}

/// Packages of a file each, which all need the same libraries.
#[derive(Debug)]
struct MadeUp(StoreRoot);

impl MadeUp {
    /// Makes a store path with so many bytes.
    fn fill(&self, path: &StorePath, bytes: usize) {
        let folder = self.0.locate(path).join("share");
        fs::create_dir_all(&folder)
            .and_then(|()| noise(&folder.join("noise"), bytes))
            .expect("the temporary folder can be written to");
    }
}

fn libraries() -> impl Iterator<Item = StorePath> {
    (0..LIBRARIES).map(|n| store_path(&format!("library-{n}")))
}

fn store_path(package: &str) -> StorePath {
    let hash = Digest::of(package.as_bytes()).hex().replace('e', "z");
    StorePath::parse(&format!("/nix/store/{}-{package}", &hash[..32])).expect("a store path")
}

#[async_trait]
impl Nix for MadeUp {
    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        _: &BuildLog,
    ) -> std::result::Result<Evaluation, NixError> {
        let packages = request.packages.iter().map(|name| {
            let path = store_path(name);
            EvaluatedPackage::new(name, format!("{}.drv", path.as_str()), path)
        });
        let packages = packages.collect();
        Ok(Evaluation { packages })
    }

    async fn realise(
        &self,
        evaluation: &Evaluation,
        _: &Path,
        _: &BuildLog,
    ) -> std::result::Result<(), NixError> {
        for library in libraries() {
            self.fill(&library, 1000);
        }
        for package in &evaluation.packages {
            let bytes = if package.name == "large" { LARGE } else { 1000 };
            self.fill(&package.store_path, bytes);
        }
        Ok(())
    }

    async fn reference_graph(
        &self,
        roots: &[StorePath],
        _: &BuildLog,
    ) -> std::result::Result<ReferenceGraph, NixError> {
        let libraries: Vec<_> = libraries().collect();
        let node = |path: &StorePath, references: &[StorePath]| {
            let hash = Digest::of(path.as_str().as_bytes());
            serde_json::json!({
                "path": path.as_str(), "narHash": hash.to_string(), "narSize": 1_000_000, "references": references,
            })
        };
        let mut nodes: Vec<_> = roots.iter().map(|path| node(path, &libraries)).collect();
        nodes.extend(libraries.iter().map(|path| node(path, &[])));
        let json = serde_json::Value::from(nodes).to_string();
        ReferenceGraph::from_path_info(json.as_bytes(), roots).map_err(NixError::Graph)
    }

    async fn preflight(&self) -> Vec<Finding> {
        Vec::new()
    }

    fn store_root(&self) -> &StoreRoot {
        &self.0
    }
}

/// Writes bytes that do not compress, the same in each run (xorshift).
fn noise(path: &Path, bytes: usize) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()
}
