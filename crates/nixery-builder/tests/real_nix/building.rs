//! Builds with real Nix, and the GC roots that they hold.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use nixery_builder::{Builder, ImageRequest};
use nixery_core::StoreRoot;
use nixery_core::{ImageName, PackageSource, ReferenceGraph, ResolvedSource, StorePath, Tag};
use nixery_nix::{BuildLog, Evaluation, EvaluationRequest, Finding, Nix, NixCli, NixError};
use rstest::rstest;

use crate::setup::{Setup, nix_config, paths};

#[rstest]
#[case::with_its_dependency("foo", &["cacert-1", "foo-1.0", "iana-etc-1", "libfoo-1.0"])]
#[case::other_output_is_a_reference("multi", &["cacert-1", "iana-etc-1", "multi-1.0", "multi-1.0-lib"])]
#[case::case_insensitive_and_only_that_output("multilib", &["cacert-1", "iana-etc-1", "multi-1.0-lib"])]
#[case::nested("set.foo", &["cacert-1", "foo-1.0", "iana-etc-1", "libfoo-1.0"])]
#[case::a_file("single", &["cacert-1", "iana-etc-1", "single.txt"])]
#[case::floods_both_pipes("noisy", &["cacert-1", "iana-etc-1", "noisy-1.0"])]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn builds(#[case] name: &str, #[case] expected: &[&str]) {
    let setup = Setup::new().await;
    let image = setup.build(name).await;
    assert_eq!(paths(&image), expected);
    let again = setup.build(name).await;
    assert!(again.stats.from_cache);
    assert_eq!(again.oci, image.oci);
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn a_version_is_asserted_of_what_nix_evaluates() {
    let setup = Setup::new().await;
    let refused = setup.request_at("foo/multi", "1.1").wait().await;
    let message = refused.expect_err("has another").to_string();
    assert_eq!(
        message,
        "the package `foo` has the version 1.0 here, not 1.1. Fix: pull `foo/multi:1.0`, or without a tag"
    );
    let latest = setup.build("foo/multi").await;
    for tag in ["1", "v1.0"] {
        let image = setup.request_at("foo/multi", tag).wait().await;
        assert_eq!(image.expect(tag).oci, latest.oci);
    }
}

/// A server that lets package sets read a variable shares no image of a commit with another one.
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn variables_that_a_set_can_read_are_part_of_what_an_evaluation_depends_on() {
    let spool = tempfile::tempdir().expect("temp dir");
    let configuration = |restrict_eval: Option<bool>, value: &str, source: &PackageSource| {
        let mut config = nix_config(spool.path());
        config.restrict_eval = restrict_eval;
        config.inherited_env = vec!["NIXPKGS_*".to_owned()];
        config
            .env
            .push(("NIXPKGS_ALLOW_UNFREE".to_owned(), value.to_owned()));
        let nix = NixCli::new(config).expect("spool is usable");
        nix.configuration(&source.resolve(&Tag::latest()))
    };
    let channel = PackageSource::channel("nixos-26.05").expect("valid");
    let git = PackageSource::git("https://example.org/pkgs").expect("valid");
    let allowed = configuration(None, "1", &channel);
    assert!(allowed.is_some());
    assert_ne!(allowed, configuration(None, "0", &channel));
    assert_eq!(allowed, configuration(None, "1", &channel));
    assert_eq!(allowed, configuration(Some(false), "1", &git));
    // Restricted code sees no variables.
    assert_eq!(configuration(None, "1", &git), None);
    assert_eq!(configuration(Some(true), "1", &channel), None);
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn a_spool_directory_that_is_deleted_while_the_server_runs_is_created_again() {
    let setup = Setup::new().await;
    setup.build("foo").await;
    std::fs::remove_dir_all(setup.dir.path().join("spool")).expect("removes");
    setup.build("multi").await;
}

fn gc_roots_of(path: &str) -> String {
    let out = std::process::Command::new("nix-store")
        .args(["--query", "--roots", path])
        .output();
    String::from_utf8(out.expect("nix-store runs").stdout).expect("UTF-8")
}

/// Real Nix that notes the GC roots of the realised packages before it reads the graph.
#[derive(Debug)]
struct Watched {
    nix: NixCli,
    roots: Mutex<Vec<String>>,
}

#[async_trait]
impl Nix for Watched {
    async fn resolve(
        &self,
        source: &ResolvedSource,
        log: &BuildLog,
    ) -> Result<ResolvedSource, NixError> {
        self.nix.resolve(source, log).await
    }

    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        log: &BuildLog,
    ) -> Result<Evaluation, NixError> {
        self.nix.evaluate(request, log).await
    }

    async fn realise(
        &self,
        evaluation: &Evaluation,
        gc_roots: &Path,
        log: &BuildLog,
    ) -> Result<(), NixError> {
        self.nix.realise(evaluation, gc_roots, log).await
    }

    async fn reference_graph(
        &self,
        roots: &[StorePath],
        log: &BuildLog,
    ) -> Result<ReferenceGraph, NixError> {
        let held = roots.iter().map(|root| gc_roots_of(root.as_str()));
        self.roots.lock().expect("not poisoned").extend(held);
        self.nix.reference_graph(roots, log).await
    }

    async fn preflight(&self) -> Vec<Finding> {
        self.nix.preflight().await
    }

    fn store_root(&self) -> &StoreRoot {
        self.nix.store_root()
    }
}

/// Each realised package has a GC root while the build runs, also each output of one derivation.
/// The roots end with the build. `src/flow_tests` tests that they last until the packing has ended.
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn gc_roots_end_with_the_build() {
    let setup = Setup::new().await;
    let spool = setup.dir.path().join("spool");
    let watched = Arc::new(Watched {
        nix: NixCli::new(nix_config(&spool)).expect("spool is usable"),
        roots: Mutex::default(),
    });
    let config = setup.builder.config().clone();
    let builder = Builder::new(config, watched.clone(), setup.builder.storage().clone()).await;
    let request = ImageRequest {
        name: ImageName::parse("foo/multi/multilib").expect("valid"),
        tag: Tag::latest(),
    };
    let handle = builder.expect("opens").start(request);
    let image = handle.wait().await.expect("builds");

    let spool = spool.canonicalize().expect("is there");
    let spool = spool.to_str().expect("UTF-8");
    let held = std::mem::take(&mut *watched.roots.lock().expect("not poisoned"));
    assert_eq!(held.len(), image.packages.len());
    for roots in held {
        assert!(roots.contains(spool), "not rooted there: {roots}");
    }
    for path in image.layers.iter().flat_map(|layer| &layer.paths) {
        let roots = gc_roots_of(path.as_str());
        assert!(!roots.contains(spool), "{path:?} is still held: {roots}");
    }
}
