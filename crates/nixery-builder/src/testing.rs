//! Fixtures for the tests of the flow: a [`Nix`] that makes packages in a temporary directory, and
//! a blob store that counts. Real Nix runs in `tests/real_nix`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use nixery_core::{
    ImageName, PackageSource, ReferenceGraph, ResolvedSource, StorePath, StoreRoot, Tag,
};
use nixery_manifest::Digest;
use nixery_nix::{
    BuildLog, EvaluatedPackage, Evaluation, EvaluationRequest, Finding, Nix, NixError, PackageError,
};
pub(crate) use nixery_state::testing::world::store_path;
use nixery_storage::{
    BlobReader, ByteRange, Entry, Folder, Key, MemoryStorage, PutMode, PutOutcome, Space, Stat,
    Storage, StorageError,
};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::builder::Builder;
use crate::config::{BuilderConfig, ImageRequest};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A Nix whose packages behave as their names say: `missing…`, `broken…`, `panics…`,
/// `unversioned…`. All other packages depend on `libc`. The version of `htop` is 3.2.2, that of
/// others 2.39.5 until the package set is changed.
#[derive(Debug)]
pub(crate) struct FakeNix {
    _dir: TempDir,
    store: StoreRoot,
    pub(crate) evaluations: AtomicUsize,
    pub(crate) realisations: AtomicUsize,
    /// Each realisation consumes a permit.
    pub(crate) gate: Semaphore,
    /// How long an evaluation takes.
    pub(crate) evaluation_time: Mutex<Duration>,
    /// Each reading of a reference graph consumes a permit.
    pub(crate) graph_gate: Semaphore,
    pub(crate) gc_roots: Mutex<Option<PathBuf>>,
    /// Whether something was packed without GC roots.
    pub(crate) packed_unrooted: AtomicBool,
    /// How often the package set has been changed.
    pub(crate) edits: AtomicUsize,
    /// Whether the package set cannot be evaluated.
    pub(crate) unreadable: AtomicBool,
    /// The commit of every branch of a git source, and how long it takes to fetch it. Without one,
    /// nothing is allowed.
    pub(crate) commit: Mutex<Option<&'static str>>,
    pub(crate) fetch_time: Mutex<Duration>,
    /// Names that no branch or tag of a git source has. It has all others.
    pub(crate) missing_refs: Mutex<Vec<&'static str>>,
    /// What evaluations depend on besides the source.
    pub(crate) configuration: Mutex<Option<Digest>>,
    made: Mutex<BTreeSet<StorePath>>,
}

impl FakeNix {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        Self {
            store: StoreRoot::new(dir.path()),
            _dir: dir,
            evaluations: AtomicUsize::new(0),
            realisations: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            evaluation_time: Mutex::default(),
            graph_gate: Semaphore::new(Semaphore::MAX_PERMITS),
            gc_roots: Mutex::default(),
            packed_unrooted: AtomicBool::new(false),
            edits: AtomicUsize::new(0),
            unreadable: AtomicBool::new(false),
            commit: Mutex::new(Some(COMMIT)),
            fetch_time: Mutex::default(),
            missing_refs: Mutex::default(),
            configuration: Mutex::default(),
            made: Mutex::default(),
        }
    }

    /// Makes a path once, as the contents of a store never change.
    fn make(&self, path: &StorePath) {
        let mut made = self.made.lock().expect("not poisoned");
        if !made.insert(path.clone()) {
            return;
        }
        let place = self.store.locate(path);
        fs::create_dir_all(place.join("bin")).expect("mkdir");
        let text = path.name().repeat(10_000);
        fs::write(place.join("bin").join(path.name()), text).expect("write");
    }
}

#[async_trait]
impl Nix for FakeNix {
    async fn resolve(
        &self,
        source: &ResolvedSource,
        _: &BuildLog,
    ) -> Result<ResolvedSource, NixError> {
        if source.src_type != "git" {
            return Ok(source.clone());
        }
        let (time, commit) = (
            *self.fetch_time.lock().expect("not poisoned"),
            *self.commit.lock().expect("not poisoned"),
        );
        tokio::time::sleep(time).await;
        let missing = self.missing_refs.lock().expect("not poisoned").clone();
        let is_asked_for = |name: &&&str| source.src_args.contains(&format!(r#""ref":"{name}""#));
        if let Some(name) = missing.iter().find(is_asked_for) {
            return Err(NixError::Package(PackageError::UnknownRevision {
                revision: format!("`{name}`"),
                examples: vec!["main".to_owned()],
            }));
        }
        let commit = commit.ok_or_else(|| PackageError::UnknownRevision {
            revision: "`main`".to_owned(),
            examples: Vec::new(),
        })?;
        let pinned = format!(r#""rev":"{commit}","url""#);
        Ok(ResolvedSource {
            src_args: source.src_args.replace(r#""url""#, &pinned),
            revision: Some(commit.to_owned()),
            ..source.clone()
        })
    }

    async fn known_refs(
        &self,
        source: &ResolvedSource,
        limit: usize,
    ) -> Result<Vec<Tag>, NixError> {
        let refs = match source.src_type {
            "git" => ["main", "v1"].as_slice(),
            _ => &[],
        };
        let refs = refs.iter().take(limit);
        Ok(refs.map(|name| Tag::parse(name).expect("valid")).collect())
    }

    fn configuration(&self, _: &ResolvedSource) -> Option<Digest> {
        *self.configuration.lock().expect("not poisoned")
    }

    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        log: &BuildLog,
    ) -> Result<Evaluation, NixError> {
        self.evaluations.fetch_add(1, Ordering::SeqCst);
        log.push("evaluating");
        let time = *self.evaluation_time.lock().expect("not poisoned");
        tokio::time::sleep(time).await;
        if self.unreadable.load(Ordering::SeqCst) {
            let message = "syntax error".to_owned();
            return Err(PackageError::Source { message }.into());
        }
        let missing = request
            .packages
            .iter()
            .filter(|name| name.starts_with("missing"));
        let missing: Vec<_> = missing.cloned().collect();
        if !missing.is_empty() {
            return Err(PackageError::NotFound { packages: missing }.into());
        }
        let system = request.architecture.nix_system();
        let edits = self.edits.load(Ordering::SeqCst);
        let edit = match edits {
            0 => String::new(),
            edits => format!("-{edits}"),
        };
        let packages = request.packages.iter().map(|name| {
            let path = store_path(&format!("{name}-{system}{edit}"));
            let package = EvaluatedPackage::new(name, format!("{}.drv", path.as_str()), path);
            match name.as_str() {
                "htop" => package.with_version("3.2.2"),
                name if name.starts_with("unversioned") => package,
                _ => package.with_version(format!("2.39.{}", 5 + edits)),
            }
        });
        Ok(Evaluation {
            packages: packages.collect(),
        })
    }

    async fn realise(
        &self,
        evaluation: &Evaluation,
        gc_roots: &Path,
        log: &BuildLog,
    ) -> Result<(), NixError> {
        self.realisations.fetch_add(1, Ordering::SeqCst);
        log.push("realising");
        assert!(gc_roots.is_dir(), "the directory for GC roots exists");
        *self.gc_roots.lock().expect("not poisoned") = Some(gc_roots.to_owned());
        self.gate.acquire().await.expect("open").forget();
        self.make(&store_path("libc"));
        for package in &evaluation.packages {
            assert!(!package.name.starts_with("panics"), "as asked for");
            if package.name.starts_with("broken") {
                return Err(NixError::Package(PackageError::Failed {
                    package: package.name.clone(),
                    derivation: package.derivation.clone(),
                    reason: "builder-exited-1".to_owned(),
                    log_tail: vec!["no".to_owned()],
                }));
            }
            self.make(&package.store_path);
        }
        Ok(())
    }

    async fn reference_graph(
        &self,
        roots: &[StorePath],
        _: &BuildLog,
    ) -> Result<ReferenceGraph, NixError> {
        self.graph_gate.acquire().await.expect("open").forget();
        let rooted = self.gc_roots.lock().expect("not poisoned").clone();
        assert!(rooted.is_some_and(|dir| dir.is_dir()), "still rooted");
        let info = |path: &StorePath, references: &[StorePath]| {
            serde_json::json!({
                "path": path,
                "narHash": format!("sha256:{}", Digest::of(path.as_str().as_bytes()).hex()),
                // Large enough that the default strategy gives each path a layer.
                "narSize": 1_000_000 + path.as_str().len(),
                "references": references,
            })
        };
        let libc = store_path("libc");
        let mut infos = vec![info(&libc, &[])];
        infos.extend(
            roots
                .iter()
                .map(|root| info(root, std::slice::from_ref(&libc))),
        );
        let json = serde_json::to_vec(&infos).expect("serialises");
        ReferenceGraph::from_path_info(&json, roots).map_err(NixError::Graph)
    }

    async fn preflight(&self) -> Vec<Finding> {
        Vec::new()
    }

    /// Called before each packing.
    fn store_root(&self) -> &StoreRoot {
        let roots = self.gc_roots.lock().expect("not poisoned");
        if roots.as_ref().is_some_and(|dir| !dir.is_dir()) {
            self.packed_unrooted.store(true, Ordering::SeqCst);
        }
        &self.store
    }
}

/// A store, in memory by default, that counts the packed layers put into it and the bytes that are
/// read from it.
#[derive(Debug)]
pub(crate) struct CountingStorage {
    inner: Arc<dyn Storage>,
    pub(crate) files: AtomicUsize,
    pub(crate) bytes_read: AtomicU64,
    /// The space that it reports.
    pub(crate) space: Mutex<Option<Space>>,
}

impl Default for CountingStorage {
    fn default() -> Self {
        Self::over(Arc::new(MemoryStorage::new()))
    }
}

impl CountingStorage {
    pub(crate) fn over(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            files: AtomicUsize::new(0),
            bytes_read: AtomicU64::new(0),
            space: Mutex::default(),
        }
    }
}

#[async_trait]
impl Storage for CountingStorage {
    fn backend(&self) -> &'static str {
        "counting"
    }
    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        self.files.fetch_add(1, Ordering::SeqCst);
        self.inner.put_file(key, spool).await
    }
    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        self.inner.put(key, bytes, mode).await
    }
    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        let reader = self.inner.get(key, range).await?;
        if let Some(reader) = &reader {
            let bytes = reader.range.len();
            self.bytes_read.fetch_add(bytes, Ordering::SeqCst);
        }
        Ok(reader)
    }
    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        self.inner.stat(key).await
    }
    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        self.inner.list(folder).await
    }
    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        self.inner.delete(key).await
    }
    async fn space(&self) -> Result<Option<Space>, StorageError> {
        Ok(*self.space.lock().expect("not poisoned"))
    }
    async fn check(&self) -> Result<(), StorageError> {
        self.inner.check().await
    }
    fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }
}

/// A builder over a [`FakeNix`] and a [`CountingStorage`].
pub(crate) struct Fixture {
    pub(crate) nix: Arc<FakeNix>,
    pub(crate) storage: Arc<CountingStorage>,
    pub(crate) builder: Builder,
    _spool: TempDir,
}

impl Fixture {
    /// A builder of a moving source that remembers nothing.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut BuilderConfig)) -> Self {
        Self::over(Arc::default(), change).await
    }

    pub(crate) async fn over(
        storage: Arc<CountingStorage>,
        change: impl FnOnce(&mut BuilderConfig),
    ) -> Self {
        let spool = tempfile::tempdir().expect("temp dir");
        let source = PackageSource::path("/srv/pkgs").expect("valid");
        let mut config = BuilderConfig::new(source, spool.path());
        config.recheck_after = Duration::ZERO;
        config.failure_ttl = Duration::ZERO;
        change(&mut config);
        let nix = Arc::new(FakeNix::new());
        let builder = Builder::new(config, nix.clone(), storage.clone())
            .await
            .expect("opens");
        Self {
            nix,
            storage,
            builder,
            _spool: spool,
        }
    }

    pub(crate) fn evaluations(&self) -> usize {
        self.nix.evaluations.load(Ordering::SeqCst)
    }

    pub(crate) fn realisations(&self) -> usize {
        self.nix.realisations.load(Ordering::SeqCst)
    }

    pub(crate) fn packed(&self) -> usize {
        self.storage.files.load(Ordering::SeqCst)
    }
}

pub(crate) fn request(name: &str) -> ImageRequest {
    tagged(name, "latest")
}

pub(crate) fn tagged(name: &str, tag: &str) -> ImageRequest {
    ImageRequest {
        name: ImageName::parse(name).expect("valid"),
        tag: Tag::parse(tag).expect("valid"),
    }
}

/// Configures a git repository, whose branches move.
pub(crate) fn git(config: &mut BuilderConfig) {
    config.source = PackageSource::git("https://example.org/pkgs").expect("valid");
}

/// Configures a source that cannot change.
pub(crate) fn pinned(config: &mut BuilderConfig) {
    config.source = PackageSource::channel(COMMIT).expect("valid");
}
