//! The command line of an evaluation, and what the evaluated code may read.
//!
//! In Nix's restricted mode (`restrict-eval`) code reads only what the command line names: the Nix
//! code of this crate and the package set. It sees no environment and no other file of the server.
//! The names are given in either mode, as `nix.conf` may turn it on.
//!
//! No URL is ever named: Nix compares them as text, and what fetches them resolves `..` later. So
//! package sets are fetched by an evaluation of their own, which imports nothing of them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nixery_core::ResolvedSource;
use serde_json::Value;

/// A package set as the Nix code gets it, and the paths that it is loaded from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PackageSet {
    pub(crate) src_type: &'static str,
    pub(crate) src_args: String,
    paths: Vec<PathBuf>,
}

impl PackageSet {
    /// The package set of a source that needs no fetching.
    pub(crate) fn of(source: &ResolvedSource) -> Self {
        let paths = match source.src_type {
            "path" => with_target(PathBuf::from(&source.src_args)),
            _ => Vec::new(),
        };
        Self {
            src_type: source.src_type,
            src_args: source.src_args.clone(),
            paths,
        }
    }

    /// The package set in a fetched folder, which messages describe in other words.
    pub(crate) fn fetched(path: &Path, description: &str) -> Self {
        let src_args = serde_json::json!({ "path": path, "description": description });
        Self {
            src_type: "fetched",
            src_args: src_args.to_string(),
            paths: with_target(path.to_owned()),
        }
    }

    /// Whether it was removed, for example by garbage collection.
    pub(crate) fn is_gone(&self) -> bool {
        let mut paths = self.paths.iter();
        paths.any(|path| path.symlink_metadata().is_err())
    }
}

/// Nix checks a path as it is written and, if it leads through links, as it is.
fn with_target(path: PathBuf) -> Vec<PathBuf> {
    let real = path.canonicalize().ok().filter(|real| *real != path);
    std::iter::once(path).chain(real).collect()
}

/// What evaluated code may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything: the code is this crate's.
    Free,
    /// What `nix.conf` says.
    AsConfigured,
    /// The files that the command line names, and URLs that `nix.conf` allows.
    Restricted,
}

/// Returns the arguments of `nix-instantiate` for a file of the Nix code.
pub(crate) fn arguments(
    file: &Path,
    request: &Value,
    set: Option<&PackageSet>,
    access: Access,
) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    add(&[
        "--eval",
        "--json",
        "--strict",
        "--read-write-mode",
        "--show-trace",
        "--option",
        "allow-import-from-derivation",
        "false",
        "--log-format",
        "internal-json",
    ]);
    match access {
        Access::Free => add(&["--option", "restrict-eval", "false"]),
        Access::AsConfigured => {}
        // The search path of the server's user is no part of a package set.
        Access::Restricted => {
            add(&["--option", "restrict-eval", "true"]);
            add(&["--option", "nix-path", ""]);
        }
    }
    add(&["--argstr", "request", &request.to_string()]);
    let code = file.parent().unwrap_or(file);
    let packages = set.map_or(&[][..], |set| &set.paths);
    let packages = packages.iter().map(|path| ("packages", path.as_path()));
    for (name, path) in std::iter::once(("code", code)).chain(packages) {
        let mut entry = OsString::from(format!("nixery-{name}="));
        entry.push(path);
        args.extend(["-I".into(), entry]);
    }
    args.push(file.into());
    args
}

#[cfg(test)]
mod tests {
    use nixery_core::{PackageSource, Tag};

    use super::*;

    fn words(set: &PackageSet, access: Access) -> String {
        let request = serde_json::json!({ "x": 1 });
        let file = Path::new("/code/prepare-image.nix");
        let args = arguments(file, &request, Some(set), access);
        args.join(" ".as_ref()).to_string_lossy().into_owned()
    }

    #[test]
    fn a_set_is_named_by_where_its_files_are() {
        let at = |source: PackageSource| PackageSet::of(&source.resolve(&Tag::latest()));
        let dir = tempfile::tempdir().expect("temp dir");
        let real = dir.path().canonicalize().expect("is there");
        let link = real.join("link");
        std::os::unix::fs::symlink(&real, &link).expect("links");

        let expected = format!(
            "-I nixery-code=/code -I nixery-packages={} -I nixery-packages={} /code/prepare-image.nix",
            link.display(),
            real.display()
        );
        let path = at(PackageSource::path(&link).expect("valid"));
        for set in [&path, &PackageSet::fetched(&link, "x")] {
            let found = words(set, Access::AsConfigured);
            assert!(found.contains(&expected), "{found}");
            assert!(!found.contains("restrict-eval"), "{found}");
        }
        assert!(!path.is_gone());
        std::fs::remove_file(&link).expect("removes");
        assert!(path.is_gone());
    }

    /// Nix compares a URL as text, and curl and git resolve `..` in it.
    #[test]
    fn no_url_is_allowed() {
        let set = PackageSet::fetched(Path::new("/nix/store/x"), "x");
        for access in [Access::Free, Access::AsConfigured, Access::Restricted] {
            let found = words(&set, access);
            assert!(!found.contains("allowed-uris"), "{found}");
        }
        let found = words(&set, Access::Restricted);
        assert!(found.contains("--option restrict-eval true"), "{found}");
    }
}
