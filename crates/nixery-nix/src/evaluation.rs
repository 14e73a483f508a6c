//! The command line of an evaluation, and what the evaluated code may read.
//!
//! In Nix's restricted mode (`restrict-eval`) code reads only what the command line names: the Nix
//! code of this crate and the package set. It sees no environment and no other file of the server.
//! The names are given in either mode, as `nix.conf` may turn it on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nixery_core::ResolvedSource;
use serde_json::Value;

use crate::git::MirroredSource;

/// What nixpkgs is fetched from, see `nix/load-pkgs.nix`.
const NIXPKGS: &str = "https://github.com/NixOS/nixpkgs/archive/";

/// A package set as the Nix code gets it, and what it reads to load it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PackageSet {
    pub(crate) src_type: &'static str,
    pub(crate) src_args: String,
    paths: Vec<PathBuf>,
    urls: Vec<String>,
}

impl PackageSet {
    /// The package set of a source that is not a git repository.
    pub(crate) fn of(source: &ResolvedSource) -> Self {
        let (mut paths, mut urls) = (Vec::new(), Vec::new());
        match source.src_type {
            "path" => {
                let path = PathBuf::from(&source.src_args);
                // Nix checks a path as it is written and, if it leads through links, as it is.
                let real = path.canonicalize().ok().filter(|real| *real != path);
                paths.push(path);
                paths.extend(real);
            }
            "nixpkgs" => urls.push(NIXPKGS.to_owned()),
            _ => {}
        }
        Self {
            src_type: source.src_type,
            src_args: source.src_args.clone(),
            paths,
            urls,
        }
    }

    /// The package set in the mirror of a repository.
    pub(crate) fn mirrored(source: &ResolvedSource, mirror: MirroredSource) -> Self {
        // Nix checks the URL as it is given, newer versions with the scheme of its own.
        let urls = ["", "git+"].map(|scheme| format!("{scheme}{}", mirror.url_prefix));
        Self {
            src_type: source.src_type,
            src_args: mirror.src_args,
            paths: Vec::new(),
            urls: urls.into(),
        }
    }
}

/// Returns the arguments of `nix-instantiate` for a file of the Nix code.
pub(crate) fn arguments(
    file: &Path,
    request: &Value,
    set: &PackageSet,
    restricted: bool,
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
    if restricted {
        add(&["--option", "restrict-eval", "true"]);
    }
    if !set.urls.is_empty() {
        // Besides those that nix.conf allows.
        add(&["--option", "extra-allowed-uris", &set.urls.join(" ")]);
    }
    add(&["--argstr", "request", &request.to_string()]);
    let code = file.parent().unwrap_or(file);
    let packages = set.paths.iter().map(|path| ("packages", path.as_path()));
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

    fn words(set: &PackageSet, restricted: bool) -> String {
        let request = serde_json::json!({ "x": 1 });
        let file = Path::new("/code/prepare-image.nix");
        let args = arguments(file, &request, set, restricted);
        args.join(" ".as_ref()).to_string_lossy().into_owned()
    }

    #[test]
    fn a_set_is_named_by_where_it_comes_from() {
        let at = |source: PackageSource| PackageSet::of(&source.resolve(&Tag::latest()));
        let dir = tempfile::tempdir().expect("temp dir");
        let real = dir.path().canonicalize().expect("is there");
        let link = real.join("link");
        std::os::unix::fs::symlink(&real, &link).expect("links");

        let path = at(PackageSource::path(&link).expect("valid"));
        let expected = format!(
            "-I nixery-code=/code -I nixery-packages={} -I nixery-packages={} /code/prepare-image.nix",
            link.display(),
            real.display()
        );
        let found = words(&path, false);
        assert!(found.contains(&expected), "{found}");
        assert!(!found.contains("restrict-eval"), "{found}");

        let channel = at(PackageSource::channel("nixos-26.05").expect("valid"));
        let found = words(&channel, true);
        assert!(found.contains("--option restrict-eval true"), "{found}");
        assert!(
            found.contains(&format!("extra-allowed-uris {NIXPKGS} ")),
            "{found}"
        );
    }
}
