//! Fetches package sets into the store. No code of a set is imported for it, so only this
//! evaluation may read URLs.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nixery_core::{ResolvedSource, StorePath};
use percent_encoding::percent_decode;
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::build_log::BuildLog;
use crate::cli::{EVALUATOR, NixCli, QUERY_TIMEOUT, strings};
use crate::code::FETCH_SOURCE;
use crate::environment::ChildEnvironment;
use crate::evaluation::{self, Access, PackageSet};
use crate::failure::evaluation_error;
use crate::log_format::NixLog;
use crate::{NixError, PackageError};

/// A folder that nobody can make.
const NO_FOLDER: &str = "/dev/null/restricted";

impl NixCli {
    /// Returns the package set of a source, with its files on this machine.
    ///
    /// # Errors
    /// It cannot be fetched, or is a commit that is not allowed.
    pub(crate) async fn package_set(
        &self,
        source: &ResolvedSource,
        log: &BuildLog,
    ) -> Result<PackageSet, NixError> {
        if let Some(mirrored) = self.mirrors.provide(source, log).await? {
            let path = match self.fetched.get(&mirrored.src_args) {
                Some(path) => path,
                None => {
                    let path = self.fetch("git", &mirrored.src_args, log).await?;
                    if self.strictest_access() == Access::Restricted {
                        check_names(path.clone()).await?;
                    }
                    self.fetched.insert(&mirrored.src_args, path.clone());
                    path
                }
            };
            return Ok(PackageSet::fetched(&path, &mirrored.description));
        }
        if source.src_type == "nixpkgs" {
            // Nix knows how old its copy of a channel may be.
            let path = self.fetch("nixpkgs", &source.src_args, log).await?;
            let description = format!("nixpkgs {}", source.src_args);
            return Ok(PackageSet::fetched(&path, &description));
        }
        Ok(PackageSet::of(source))
    }

    /// Returns the environment of an evaluation. Restricted code gets no cache of Nix, without
    /// which Nix fetches nothing, unless `nix.conf` allows URLs. Otherwise it could have Nix unpack
    /// an archive of the set, with names that lead out of it.
    pub(crate) async fn evaluation_environment(&self, access: Access) -> ChildEnvironment {
        let environment = self.environment.clone();
        if access != Access::Restricted {
            return environment;
        }
        let allowed = self.allows_urls.get_or_try_init(|| self.read_allows_urls());
        match allowed.await {
            Ok(true) => environment,
            _ => environment
                .with("XDG_CACHE_HOME", NO_FOLDER)
                .with("NIX_CACHE_HOME", NO_FOLDER),
        }
    }

    async fn read_allows_urls(&self) -> Result<bool, NixError> {
        let out = BuildLog::default();
        let mut problem = String::new();
        // The second is the name since Nix 2.19.
        for command in [&["show-config"][..], &["config", "show"]] {
            let mut args = strings(["--extra-experimental-features", "nix-command"]).to_vec();
            args.extend(command.iter().map(OsString::from));
            args.push("--json".into());
            let mut log = NixLog::new(&out);
            let finished = self.run("nix", args, QUERY_TIMEOUT, &mut log).await?;
            let settings: Option<Value> = serde_json::from_slice(&finished.stdout).ok();
            let allowed = settings.as_ref().map(|all| &all["allowed-uris"]["value"]);
            if let Some(allowed) = allowed.and_then(Value::as_array) {
                return Ok(!allowed.is_empty());
            }
            problem = log.detail();
        }
        tracing::warn!(%problem, "the setting allowed-uris of Nix cannot be read: restricted code may fetch nothing");
        Err(NixError::Output {
            command: "nix",
            problem,
        })
    }

    /// Lets Nix fetch a source, and returns where its files are.
    async fn fetch(
        &self,
        src_type: &str,
        src_args: &str,
        log: &BuildLog,
    ) -> Result<PathBuf, NixError> {
        let request = serde_json::json!({ "srcType": src_type, "srcArgs": src_args });
        let file = self.code_file(FETCH_SOURCE)?;
        let args = evaluation::arguments(&file, &request, None, Access::Free);
        let mut log = NixLog::new(log);
        let timeout = self.config.evaluate_timeout;
        let finished = self.run(EVALUATOR, args, timeout, &mut log).await?;
        if !finished.status.success() {
            return Err(evaluation_error(&log, &[]));
        }
        let answer = serde_json::from_slice::<String>(&finished.stdout).ok();
        let path = answer.and_then(|path| StorePath::parse(&path).ok());
        let path = path.ok_or_else(|| NixError::Output {
            command: EVALUATOR,
            problem: "the answer is not a store path".to_owned(),
        })?;
        Ok(self.store_root.locate(&path))
    }
}

/// Checks that no name in a package set is another one when it is decoded as a part of a URL.
///
/// In restricted mode Nix compares `file://` URLs with the files of the set as they are written,
/// and curl and git decode them. So a folder called `%2e%2e` would lead out of the set, and a file
/// `link?` to what the link `link` leads to.
async fn check_names(folder: PathBuf) -> Result<(), NixError> {
    let found = spawn_blocking(move || ambiguous_name(folder)).await;
    let found = found.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    let found = found.map_err(|source| NixError::Process {
        action: "read the names of a package set".to_owned(),
        source,
    })?;
    let Some(name) = found else { return Ok(()) };
    let name = name.to_string_lossy().into_owned();
    let message = format!(
        "the name of the file {name:?} means another file in a URL, so restricted code could read \
         that one. Fix: rename it"
    );
    Err(PackageError::Source { message }.into())
}

fn ambiguous_name(folder: PathBuf) -> io::Result<Option<OsString>> {
    let mut open = vec![folder];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_ambiguous(&folder, name.as_bytes()) {
                return Ok(Some(name));
            }
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(None)
}

fn is_ambiguous(folder: &Path, name: &[u8]) -> bool {
    let mut name = name.to_owned();
    loop {
        let mut parts = name.split(|byte| b"?#".contains(byte));
        let decoded: Vec<u8> = percent_decode(parts.next().unwrap_or_default()).collect();
        if decoded.is_empty() || decoded == name {
            return false;
        }
        let other = folder.join(OsStr::from_bytes(&decoded));
        let leads_elsewhere = decoded.contains(&b'/') || decoded == b"." || decoded == b"..";
        if leads_elsewhere || other.symlink_metadata().is_ok() {
            return true;
        }
        // What is decoded may be decoded again.
        name = decoded;
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("plain.nix", false)]
    #[case("100%.patch", false)]
    #[case("fix#1.patch", false)]
    #[case("a%20b", false)]
    #[case::folder_above("%2e%2e", true)]
    #[case::folder_above_in_part(".%2E", true)]
    #[case::decoded_twice("%252e%252e", true)]
    #[case::path("..%2f..%2fetc", true)]
    #[case::query("link?x", true)]
    #[case::fragment("link#x", true)]
    #[case::encoded("l%69nk", true)]
    #[case::encoded_with_query("..?x", true)]
    #[case::query_alone("?x", false)]
    fn names_that_are_others_in_urls_are_found(#[case] name: &str, #[case] found: bool) {
        let dir = tempfile::tempdir().expect("temp dir");
        let below = dir.path().join("below");
        fs::create_dir(&below).expect("mkdir");
        std::os::unix::fs::symlink("/etc/shadow", below.join("link")).expect("links");
        fs::write(below.join(name), "").expect("writes");
        let ambiguous = ambiguous_name(dir.path().to_owned()).expect("reads");
        assert_eq!(ambiguous, found.then(|| name.into()));
    }
}
