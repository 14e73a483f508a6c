//! A registry with an evaluator of one's own: its packages are folders, and there is no Nix.
//!
//! ```text
//! cargo run -p nixery-server --example registry_without_nix -- [ADDRESS:PORT ROOT]
//! ```
//!
//! With arguments it serves until Ctrl-C. The package `htop` is a folder
//! `ROOT/nix/store/HASH-htop`, where HASH is 32 characters of Nix's base 32. Every image needs the
//! packages `cacert` and `iana-etc`, so ROOT must have them too. Blobs are stored in `ROOT/blobs`.
//!
//! Without arguments it makes packages in a temporary folder, serves them on a free port, pulls an
//! image from itself and ends.

use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nixery_builder::{Builder, BuilderConfig};
use nixery_core::manifest::{Digest, Manifest};
use nixery_core::{ListedPath, NarHash, PackageSource, ReferenceGraph, StorePath, StoreRoot};
use nixery_nix::{
    BuildLog, EvaluatedPackage, Evaluation, EvaluationRequest, Finding, Nix, NixError, PackageError,
};
use nixery_server::config::HttpSettings;
use nixery_server::limits::Limits;
use nixery_server::listen::{bind, serve};
use nixery_server::{AppState, router};
use nixery_storage::FilesystemStorage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A package set whose packages are the folders of a store.
#[derive(Debug)]
struct Folders(StoreRoot);

impl Folders {
    fn find(&self, package: &str) -> Option<StorePath> {
        let folders = fs::read_dir(self.0.prefix().join("nix/store")).ok()?;
        folders
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| StorePath::parse(&format!("/nix/store/{name}")).ok())
            .find(|path| path.name().eq_ignore_ascii_case(package))
    }
}

#[async_trait]
impl Nix for Folders {
    // Finds packages. The answer identifies the image: the builder looks for a cached image by the
    // derivations, so their paths must change with the contents.
    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        log: &BuildLog,
    ) -> Result<Evaluation, NixError> {
        log.push("looking for the packages");
        let mut packages = Vec::new();
        let mut missing = Vec::new();
        for name in &request.packages {
            match self.find(name) {
                None => missing.push(name.clone()),
                // Name, derivation, store path. A folder is its own derivation.
                Some(path) => {
                    packages.push(EvaluatedPackage::new(name, path.as_str(), path.clone()));
                }
            }
        }
        if missing.is_empty() {
            Ok(Evaluation { packages })
        } else {
            // Clients get a 404 that names all of them.
            Err(PackageError::NotFound { packages: missing }.into())
        }
    }

    // Builds packages. Folders need no build. `gc_roots` is for links that keep packages from
    // being deleted while their image is made.
    async fn realise(
        &self,
        _evaluation: &Evaluation,
        _gc_roots: &Path,
        _log: &BuildLog,
    ) -> Result<(), NixError> {
        Ok(())
    }

    // Returns what the packages need at run time, with sizes and hashes. Packed layers are cached
    // under the hashes, so they must be right.
    async fn reference_graph(
        &self,
        roots: &[StorePath],
        _log: &BuildLog,
    ) -> Result<ReferenceGraph, NixError> {
        let store = self.0.clone();
        let roots = roots.to_vec();
        // It reads all files, so it runs on a thread on which that blocks nobody.
        tokio::task::spawn_blocking(move || {
            let mut list = Vec::new();
            for path in roots {
                let folder = store.locate(&path);
                list.push(ListedPath {
                    nar_size: size(&folder).map_err(|error| unreadable(&path, &error))?,
                    nar_hash: Some(
                        NarHash::of_path(&folder).map_err(|error| unreadable(&path, &error))?,
                    ),
                    path,
                    // The places of other paths in the list. These folders need nothing.
                    references: &[],
                });
            }
            let places: Vec<u32> = (0..).take(list.len()).collect();
            let (graph, _) = ReferenceGraph::from_list(&list, &places).map_err(NixError::Graph)?;
            Ok(graph)
        })
        .await
        .unwrap_or_else(|panic| {
            Err(NixError::Unavailable {
                problem: "the packages cannot be read".to_owned(),
                detail: panic.to_string(),
            })
        })
    }

    async fn preflight(&self) -> Vec<Finding> {
        Vec::new()
    }

    // Where the files of `/nix/store` are.
    fn store_root(&self) -> &StoreRoot {
        &self.0
    }
}

/// Bytes of all files: enough for layer plans, which use sizes as weights.
fn size(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    fs::read_dir(path)?.try_fold(0, |sum, entry| Ok(sum + size(&entry?.path())?))
}

/// `problem` goes to clients, `detail` to the log of the server.
fn unreadable(path: &StorePath, error: &dyn Error) -> NixError {
    NixError::Unavailable {
        problem: format!("cannot read the package `{}`", path.name()),
        detail: error.to_string(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [address, root] => {
            serve_until(address.parse()?, Path::new(root), |address| async move {
                println!("listening on {address}; Ctrl-C ends");
                tokio::signal::ctrl_c().await?;
                Ok(())
            })
            .await
        }
        [] => {
            let folder = tempfile::tempdir()?;
            for (package, file) in [
                ("3n58xw4373jp0ljirf06d8077j15pc4j-greeting", "share/hello"),
                (
                    "00bgd045z0d4icpbc2yyz4gx48ak44la-cacert",
                    "etc/ssl/certs/ca-bundle.crt",
                ),
                ("9n8y1zk2xcvn0h4j5q6r7s8a9b0c1d2f-iana-etc", "etc/services"),
            ] {
                let file = folder.path().join("nix/store").join(package).join(file);
                fs::create_dir_all(file.parent().ok_or("a file without a folder")?)?;
                fs::write(file, format!("a file of {package}\n"))?;
            }
            let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
            serve_until(any_port, folder.path(), pull).await
        }
        _ => Err("usage: registry_without_nix [ADDRESS:PORT ROOT]".into()),
    }
}

/// Serves the packages below `root` until `done`, which gets the address, returns.
async fn serve_until<F>(
    address: SocketAddr,
    root: &Path,
    done: impl FnOnce(SocketAddr) -> F,
) -> Result<(), Box<dyn Error>>
where
    F: Future<Output = Result<(), Box<dyn Error>>>,
{
    let storage = Arc::new(FilesystemStorage::open(root.join("blobs"))?);
    let nix = Arc::new(Folders(StoreRoot::new(root)));
    // The source is given to `evaluate`, which does not need it here.
    let config = BuilderConfig::new(PackageSource::path("/packages")?, root.join("spool"));
    let builder = Builder::new(config, nix, storage).await?;
    let registry = router(AppState::new(builder, HttpSettings::default()));

    let listener = bind(Some(address.ip()), address.port()).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let done = done(listener.local_addr()?);
    let server = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        let limits = Limits::for_descriptors(1024);
        serve(listener, registry, limits, stopped, Duration::from_secs(5)).await
    });
    let result = done.await;
    drop(stop);
    server.await?;
    result
}

/// Pulls a manifest and its layers, as a container client does.
async fn pull(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let bytes = get(address, "/v2/greeting/manifests/latest").await?;
    let manifest = Manifest::from_slice(&bytes)?;
    println!("manifest {}", Digest::of(&bytes));
    for layer in &manifest.layers {
        let bytes = get(address, &format!("/v2/greeting/blobs/{}", layer.digest)).await?;
        if Digest::of(&bytes) != layer.digest {
            return Err(format!("layer {} has other bytes", layer.digest).into());
        }
        println!("layer {} with {} bytes", layer.digest, layer.size);
    }
    Ok(())
}

/// Returns the body of a successful answer. HTTP/1.0 ends it with the connection, so it is simple
/// to read.
async fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = answer.split_off(end.ok_or("an answer without a body")? + 4);
    let head = String::from_utf8(answer)?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        let body = String::from_utf8_lossy(&body);
        return Err(format!("{path}: {status}: {body}").into());
    }
    Ok(body)
}
