//! `nixery build` into a blob store, and what it says it made.

use crate::command::run;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image as the JSON of `nixery build` describes it.
#[derive(Debug, Clone)]
pub struct Built(Value);

/// A layer of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltLayer {
    /// `sha256:…` of the compressed layer.
    pub digest: String,
    /// The store paths in it; none in the root layer, which is the last.
    pub paths: Vec<String>,
    /// Whether the store had it before.
    pub cached: bool,
}

/// Runs `nixery build` (the command so far: the program, and what runs it) for an image of a
/// package set.
///
/// # Panics
/// It fails.
#[track_caller]
pub fn build(
    mut nixery: Command,
    image: &str,
    set: &Path,
    storage: &Path,
    flags: &[&str],
) -> Built {
    nixery
        .args(["build", image, "--quiet", "--json", "--output", "store"])
        .args(flags)
        .arg("--pkgs-path")
        .arg(set)
        .arg("--storage-path")
        .arg(storage);
    Built(serde_json::from_str(&run(&mut nixery).success()).expect("JSON"))
}

impl Built {
    /// The layers in the manifest's order.
    ///
    /// # Panics
    /// The JSON has none.
    #[track_caller]
    pub fn layers(&self) -> Vec<BuiltLayer> {
        let layers = self.0["layers"].as_array().expect("layers").iter();
        layers
            .map(|layer| BuiltLayer {
                digest: text(&layer["digest"]),
                paths: texts(&layer["paths"]),
                cached: layer["cached"].as_bool().expect("yes or no"),
            })
            .collect()
    }

    /// The digests of all that the image is made of: two images that have them in common are the
    /// same bytes.
    #[track_caller]
    pub fn digests(&self) -> Vec<String> {
        let layers = self.layers().into_iter().map(|layer| layer.digest);
        // No Docker manifest has zstd layers.
        let docker = self.0["dockerDigest"].as_str().map(str::to_owned);
        let documents = [&self.0["digest"], &self.0["configDigest"]].map(text);
        layers.chain(documents).chain(docker).collect()
    }

    /// The packages, the ones that every image has included.
    #[track_caller]
    pub fn packages(&self) -> Vec<String> {
        texts(&self.0["packages"])
    }

    /// Whether the whole image was stored before.
    #[track_caller]
    pub fn is_from_cache(&self) -> bool {
        self.0["fromCache"].as_bool().expect("yes or no")
    }
}

/// The file of a blob in a blob store that is a folder.
pub fn blob_in(storage: &Path, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    storage.join("layers").join(hex)
}

/// The store paths that a layer's tar has files of.
///
/// # Panics
/// It is not a compressed tar.
#[track_caller]
pub fn paths_in_tar(layer: &Path) -> BTreeSet<String> {
    let names = run(Command::new("tar")
        .arg("--list")
        .arg("--gzip")
        .arg("--file")
        .arg(layer))
    .success();
    let path = |name: &str| {
        let name = name.strip_prefix("nix/store/")?.split('/').next()?;
        (!name.is_empty()).then(|| format!("/nix/store/{name}"))
    };
    names.lines().filter_map(path).collect()
}

/// What packages of a package set need at run time, as Nix reports it.
///
/// # Panics
/// A package is not built.
#[track_caller]
pub fn closure(set: &Path, packages: &[String]) -> BTreeSet<String> {
    let attributes: Vec<_> = packages
        .iter()
        .map(|name| format!("set.{name}.outPath"))
        .collect();
    let expression = format!(
        "let set = import {} {{ }}; in [ {} ]",
        set.display(),
        attributes.join(" ")
    );
    let arguments = ["--eval", "--json", "--strict", "--expr", &expression];
    let roots = run(Command::new("nix-instantiate").args(arguments)).success();
    let roots = texts(&serde_json::from_str(&roots).expect("JSON"));
    let query = ["--query", "--requisites"];
    let closure = run(Command::new("nix-store").args(query).args(roots)).success();
    closure.lines().map(str::to_owned).collect()
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[track_caller]
fn texts(list: &Value) -> Vec<String> {
    list.as_array().expect("a list").iter().map(text).collect()
}
