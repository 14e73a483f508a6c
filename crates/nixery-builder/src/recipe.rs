//! The configuration and labels of an image, and the keys of its record in the store.
//!
//! Everything here depends only on the inputs of the key, or is part of the key: two requests with
//! one key must give the same bytes.

use std::collections::BTreeMap;

use nixery_core::{
    LayerStrategy, ManifestKeyInputs, PACKER_VERSION, ResolvedSource, SourceIdentity, manifest_key,
};
use nixery_manifest::{Digest, ImageLayer, ImageParts, RuntimeConfig};
use nixery_nix::{Evaluation, hide_credentials};
use nixery_state::record::PACKAGES_LABEL;
use serde::Deserialize;

use crate::config::{BuilderConfig, ImageRequest};

/// Docker's default search path. The root layer links programs into `/bin` and `/sbin`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The path of the certificates of nixpkgs' `cacert`, as the root layer links it.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-bundle.crt";

/// A request with its resolved source.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    config: &'a BuilderConfig,
    strategy: &'a dyn LayerStrategy,
    request: &'a ImageRequest,
    source: &'a ResolvedSource,
    /// What an evaluation depends on besides the source.
    configuration: Option<Digest>,
    labels: BTreeMap<String, String>,
}

impl<'a> Recipe<'a> {
    pub(crate) fn new(
        config: &'a BuilderConfig,
        strategy: &'a dyn LayerStrategy,
        request: &'a ImageRequest,
        source: &'a ResolvedSource,
        configuration: Option<Digest>,
    ) -> Self {
        Self {
            config,
            strategy,
            request,
            source,
            configuration,
            labels: labels(request, source),
        }
    }

    /// Returns the key that needs no evaluation, if the source cannot change.
    pub(crate) fn pinned_key(&self) -> Option<Digest> {
        self.source.revision.as_ref()?;
        let (src_type, src_args) = (self.source.src_type, self.source.src_args.as_str());
        Some(self.key(SourceIdentity::Revision {
            src_type,
            src_args,
            configuration: self.configuration,
        }))
    }

    /// Returns the key that depends on what the packages evaluate to, for any source. Derivations
    /// cover what an evaluation depends on.
    pub(crate) fn evaluated_key(&self, evaluation: &Evaluation) -> Digest {
        let packages = evaluation.packages.iter();
        let mut identity: Vec<_> = packages
            .map(|package| format!("{}!{}", package.derivation, package.output))
            .collect();
        // Another branch with the same derivations gives another image, as the labels differ.
        identity.push(serde_json::json!({ "labels": self.labels }).to_string());
        self.key(SourceIdentity::Derivations(&identity))
    }

    fn key(&self, identity: SourceIdentity<'_>) -> Digest {
        manifest_key(&ManifestKeyInputs {
            identity,
            packages: self.request.name.packages(),
            architecture: self.request.name.architecture(),
            shell: self.request.name.shell(),
            strategy: &self.strategy.id(),
            budget: self.config.budget.get(),
            compression: self.config.compression,
            packer_version: PACKER_VERSION,
        })
    }

    /// Returns the parts of the image, given its layers.
    pub(crate) fn parts(&self, layers: Vec<ImageLayer>, root: ImageLayer) -> ImageParts {
        let shell = self.request.name.shell();
        let config = RuntimeConfig {
            env: vec![
                format!("PATH={PATH}"),
                format!("SSL_CERT_FILE={CA_BUNDLE}"),
                format!("NIX_SSL_CERT_FILE={CA_BUNDLE}"),
            ],
            cmd: shell.then(|| "bash".to_owned()).into_iter().collect(),
            labels: self.labels.clone(),
            ..RuntimeConfig::default()
        };
        ImageParts {
            platform: self.request.name.architecture().platform(),
            layers,
            root: Some(root),
            config,
            annotations: self.labels.clone(),
        }
    }
}

/// Returns the labels: the packages of the image and their source. A local path is not shown, as it
/// is private to the server and differs between replicas.
fn labels(request: &ImageRequest, source: &ResolvedSource) -> BTreeMap<String, String> {
    #[derive(Deserialize)]
    struct Git {
        url: String,
        #[serde(rename = "ref")]
        reference: Option<String>,
    }
    let mut labels = BTreeMap::new();
    let mut label = |key: &str, value: String| labels.insert(key.to_owned(), value);
    label(PACKAGES_LABEL, request.name.packages().join(" "));
    label("nixery.source", source.src_type.to_owned());
    match source.src_type {
        "nixpkgs" if source.revision.is_none() => {
            label("nixery.source.channel", source.src_args.clone());
        }
        "git" => {
            if let Ok(git) = serde_json::from_str::<Git>(&source.src_args) {
                label("nixery.source.url", hide_credentials(&git.url));
                if let Some(reference) = git.reference {
                    label("nixery.source.ref", reference);
                }
            }
        }
        _ => {}
    }
    if let Some(revision) = &source.revision {
        // Pre-defined by the OCI image specification, annotations.md.
        label("org.opencontainers.image.revision", revision.clone());
    }
    labels
}

#[cfg(test)]
mod tests {
    use nixery_core::{ImageName, PackageSource, StorePath, Tag};
    use nixery_nix::EvaluatedPackage;
    use rstest::rstest;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn request(name: &str, tag: &str) -> ImageRequest {
        ImageRequest {
            name: ImageName::parse(name).expect("valid"),
            tag: Tag::parse(tag).expect("valid"),
        }
    }

    fn git(url: &str) -> PackageSource {
        PackageSource::git(url).expect("valid")
    }

    fn evaluation(derivation: &str) -> Evaluation {
        let path =
            StorePath::parse("/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-git").expect("valid");
        Evaluation {
            packages: vec![EvaluatedPackage::new("git", derivation, path)],
        }
    }

    fn keys(source: &PackageSource, name: &str, tag: &str, drv: &str) -> (Option<Digest>, Digest) {
        let config = BuilderConfig::new(source.clone(), "/nonexistent");
        let request = request(name, tag);
        let source = source.resolve(&request.tag);
        let recipe = Recipe::new(&config, &*config.strategy, &request, &source, None);
        (recipe.pinned_key(), recipe.evaluated_key(&evaluation(drv)))
    }

    #[rstest]
    #[case::channel(PackageSource::channel("nixos-25.05").expect("valid"), "latest", false)]
    #[case::channel_commit(PackageSource::channel(COMMIT).expect("valid"), "latest", true)]
    #[case::branch(git("https://example.org/pkgs"), "main", false)]
    #[case::head(git("https://example.org/pkgs"), "latest", false)]
    #[case::commit(git("https://example.org/pkgs"), COMMIT, true)]
    #[case::path(PackageSource::path("/srv/pkgs").expect("valid"), COMMIT, false)]
    fn only_an_immutable_source_has_a_key_without_evaluation(
        #[case] source: PackageSource,
        #[case] tag: &str,
        #[case] pinned: bool,
    ) {
        assert_eq!(
            keys(&source, "git", tag, "/nix/store/x.drv").0.is_some(),
            pinned
        );
    }

    /// The original's key left out the architecture and joined names without a separator.
    #[test]
    fn different_inputs_have_different_keys() {
        let source = git("https://example.org/pkgs");
        let base = keys(&source, "git", "main", "/nix/store/x.drv");
        assert_eq!(base, keys(&source, "git", "main", "/nix/store/x.drv"));
        for other in [
            keys(&source, "arm64/git", "main", "/nix/store/x.drv"),
            keys(&source, "shell/git", "main", "/nix/store/x.drv"),
            keys(&source, "git", "main", "/nix/store/y.drv"),
            keys(&source, "git", "other", "/nix/store/x.drv"),
            keys(
                &git("https://example.org/other"),
                "git",
                "main",
                "/nix/store/x.drv",
            ),
        ] {
            assert_ne!(base.1, other.1);
        }
    }

    #[rstest]
    #[case(
        PackageSource::path("/srv/secret/pkgs").expect("valid"),
        "latest",
        &[("nixery.packages", "cacert git iana-etc"), ("nixery.source", "path")]
    )]
    #[case(
        PackageSource::channel("nixos-25.05").expect("valid"),
        "latest",
        &[("nixery.packages", "cacert git iana-etc"), ("nixery.source", "nixpkgs"), ("nixery.source.channel", "nixos-25.05")]
    )]
    #[case(
        git("https://user:token@example.org/pkgs.git"),
        COMMIT,
        &[
            ("nixery.packages", "cacert git iana-etc"),
            ("nixery.source", "git"),
            ("nixery.source.url", "https://example.org/pkgs.git"),
            ("org.opencontainers.image.revision", COMMIT),
        ]
    )]
    #[case(
        git("https://example.org/pkgs.git"),
        "main",
        &[
            ("nixery.packages", "cacert git iana-etc"),
            ("nixery.source", "git"),
            ("nixery.source.ref", "main"),
            ("nixery.source.url", "https://example.org/pkgs.git"),
        ]
    )]
    fn labels_name_the_source(
        #[case] source: PackageSource,
        #[case] tag: &str,
        #[case] expected: &[(&str, &str)],
    ) {
        let request = request("git", tag);
        let labels = labels(&request, &source.resolve(&request.tag));
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(labels, expected);
    }
}
