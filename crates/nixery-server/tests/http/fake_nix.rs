//! A double of Nix: what a package does is in its name, and its store is a temporary folder.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use nixery_core::StoreRoot;
use nixery_core::{ReferenceGraph, ResolvedSource, StorePath, Tag};
use nixery_manifest::Digest;
use nixery_nix::{
    BuildLog, EvaluatedPackage, Evaluation, EvaluationRequest, Finding, Nix, NixError, PackageError,
};
use tempfile::TempDir;
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct FakeNix {
    folder: TempDir,
    store: StoreRoot,
    /// `slow` packages are realised once this is true.
    gate: watch::Sender<bool>,
    evaluations: AtomicUsize,
    packages: Mutex<HashMap<StorePath, String>>,
    findings: Mutex<Vec<Finding>>,
    /// The branches and tags that a git source is known to have.
    refs: Mutex<Vec<Tag>>,
}

impl FakeNix {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: StoreRoot::new(folder.path()),
            folder,
            gate: watch::Sender::new(false),
            evaluations: AtomicUsize::new(0),
            packages: Mutex::default(),
            findings: Mutex::default(),
            refs: Mutex::default(),
        }
    }

    /// Lets builds of `slow` packages go on.
    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Builds that were begun.
    pub(crate) fn evaluations(&self) -> usize {
        self.evaluations.load(Ordering::SeqCst)
    }

    /// From now on Nix does not work.
    pub(crate) fn break_down(&self) {
        let finding = Finding::fatal("Nix is not installed in /opt/secret", "install it");
        self.findings.lock().unwrap().push(finding);
    }

    /// From now on a git source is known to have these branches and tags.
    pub(crate) fn know_refs(&self, names: &[&str]) {
        let names = names.iter().map(|name| Tag::parse(name).unwrap());
        *self.refs.lock().unwrap() = names.collect();
    }

    /// The folder that error messages must not name.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn store_path(&self, package: &str) -> StorePath {
        const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
        let hash: String = Digest::of(package.as_bytes())
            .as_bytes()
            .iter()
            .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
            .collect();
        let path = StorePath::parse(&format!("/nix/store/{hash}-{package}-1.0")).unwrap();
        self.packages
            .lock()
            .unwrap()
            .insert(path.clone(), package.to_owned());
        path
    }
}

const DERIVATION: &str = "/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-pcre-1.drv";

#[async_trait]
impl Nix for FakeNix {
    async fn known_refs(&self, _: &ResolvedSource, limit: usize) -> Result<Vec<Tag>, NixError> {
        let refs = self.refs.lock().unwrap();
        Ok(refs.iter().take(limit).cloned().collect())
    }

    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        log: &BuildLog,
    ) -> Result<Evaluation, NixError> {
        self.evaluations.fetch_add(1, Ordering::SeqCst);
        log.push("evaluating <script>alert(1)</script>");
        log.push("\u{202e}reversed\u{2066}");
        let missing: Vec<_> = request
            .packages
            .iter()
            .filter(|package| package.starts_with("missing"))
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(PackageError::NotFound { packages: missing }.into());
        }
        for package in &request.packages {
            match package.as_str() {
                "function" => {
                    return Err(NixError::Package(PackageError::NotDerivation {
                        package: package.clone(),
                        found: "a function".into(),
                    }));
                }
                "broken" => {
                    log.push("error: undefined variable 'x'");
                    log.push("       at /srv/secret/pkgs/default.nix:3:1:");
                    return Err(NixError::Package(PackageError::Evaluation {
                        package: Some(package.clone()),
                        message: "undefined variable 'x' at /srv/secret/pkgs/default.nix:3".into(),
                    }));
                }
                "unfetchable" => {
                    return Err(NixError::Package(PackageError::Source {
                        message: "https://user:hunter2@example.org/pkgs.git: no such ref".into(),
                    }));
                }
                "nonix" => {
                    return Err(NixError::Unavailable {
                        problem: "the Nix daemon does not answer".into(),
                        detail: "connect /srv/secret/socket: Connection refused (os error 111)"
                            .into(),
                    });
                }
                _ => {}
            }
        }
        let packages = request.packages.iter().map(|package| {
            let path = self.store_path(package);
            let derivation = format!("{}.drv", path.as_str());
            EvaluatedPackage::new(package, derivation, path).with_version("1.0")
        });
        Ok(Evaluation {
            packages: packages.collect(),
        })
    }

    async fn realise(
        &self,
        evaluation: &Evaluation,
        _gc_roots: &Path,
        log: &BuildLog,
    ) -> Result<(), NixError> {
        for package in &evaluation.packages {
            match package.name.as_str() {
                "failing" => {
                    let mut tail: Vec<String> = (1..=20).map(|n| format!("line {n}")).collect();
                    tail.insert(19, "/bin/sh: cannot open /srv/secret/input".into());
                    tail.iter().for_each(|line| log.push(line));
                    return Err(NixError::Package(PackageError::Failed {
                        package: "failing".into(),
                        derivation: DERIVATION.into(),
                        reason: "builder-exited-1".into(),
                        log_tail: tail,
                    }));
                }
                "endless" => {
                    return Err(NixError::TimedOut {
                        after: Duration::from_secs(60),
                        log_tail: vec!["still going".into()],
                    });
                }
                "panics" => panic!("a defect"),
                name if name.starts_with("slow") => {
                    log.push("waiting");
                    let mut gate = self.gate.subscribe();
                    gate.wait_for(|open| *open).await.unwrap();
                }
                _ => {}
            }
            let folder = self.store.locate(&package.store_path);
            fs::create_dir_all(folder.join("bin")).unwrap();
            let program = match package.name.as_str() {
                "whiteout" => ".wh.program",
                name => name,
            };
            let contents = format!("{} ", package.name).repeat(5000);
            fs::write(folder.join("bin").join(program), contents).unwrap();
        }
        Ok(())
    }

    async fn reference_graph(
        &self,
        roots: &[StorePath],
        _log: &BuildLog,
    ) -> Result<ReferenceGraph, NixError> {
        let nodes: Vec<_> = roots
            .iter()
            .map(|path| {
                let hash = Digest::of(path.as_str().as_bytes());
                serde_json::json!({
                    "path": path.as_str(), "narHash": hash.to_string(), "narSize": 1_000_000, "references": [],
                })
            })
            .collect();
        let json = serde_json::to_vec(&nodes).unwrap();
        ReferenceGraph::from_path_info(&json, roots).map_err(NixError::Graph)
    }

    async fn preflight(&self) -> Vec<Finding> {
        self.findings.lock().unwrap().clone()
    }

    fn store_root(&self) -> &StoreRoot {
        &self.store
    }
}
