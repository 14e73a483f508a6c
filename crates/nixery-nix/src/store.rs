//! The Nix store to use, and where its files are on this machine.

use std::path::{Path, PathBuf};

use nixery_core::StoreRoot;
use percent_encoding::percent_decode_str;

/// A Nix store whose files this machine can read, by its URI as for `--store` and `NIX_REMOTE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixStore {
    uri: String,
    root: PathBuf,
}

/// A URI of a store that images cannot be packed from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("images cannot be packed from this store. Fix: use {allowed}")]
#[non_exhaustive]
pub struct NixStoreError {
    /// What is allowed there instead.
    pub allowed: &'static str,
}

const KINDS: &str = "`auto`, `daemon`, `unix://` and a socket, `local`, `local?root=` and an \
     absolute folder, or such a folder alone; images are packed from the files of the store, so a \
     store on another machine can serve as a builder or substituter only";
const ROOT: &str = "an absolute folder after `root=`";
const REAL: &str = "a folder that ends in /nix/store after `real=`";
const LOGICAL: &str = "a store whose paths begin with /nix/store";

impl NixStore {
    /// Parses a URI. Does not access the file system.
    ///
    /// # Errors
    /// The URI is not of a store, or the store's files are not on this machine, or its paths are
    /// not below `/nix/store`.
    pub fn parse(uri: &str) -> Result<Self, NixStoreError> {
        let root = store_folder(uri).map_err(|allowed| NixStoreError { allowed })?;
        Ok(Self {
            uri: uri.to_owned(),
            root,
        })
    }

    /// Returns the URI, for `--store`.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Returns where the store's files are.
    #[must_use]
    pub fn root(&self) -> StoreRoot {
        StoreRoot::new(&self.root)
    }
}

/// The folder that has the `/nix/store` of a store, or what is allowed in place of the URI.
fn store_folder(uri: &str) -> Result<PathBuf, &'static str> {
    let (base, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut root = match base {
        "auto" | "local" | "local://" | "daemon" => PathBuf::from("/"),
        folder if folder.starts_with('/') => PathBuf::from(folder),
        socket if socket.starts_with("unix:///") => PathBuf::from("/"),
        _ => return Err(KINDS),
    };
    let mut real = None;
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        // What is not UTF-8 when it is decoded stays as it is.
        let decoded = percent_decode_str(value).decode_utf8();
        let value = decoded.unwrap_or(value.into()).into_owned();
        match name {
            "root" if value.is_empty() => {}
            "root" if value.starts_with('/') => root = value.into(),
            "root" => return Err(ROOT),
            "real" => real = Some(PathBuf::from(value)),
            "store" if Path::new(&value) != Path::new("/nix/store") => return Err(LOGICAL),
            _ => {}
        }
    }
    if let Some(real) = real {
        let mut above = real.ancestors();
        let fits = real.is_absolute() && real.ends_with("nix/store");
        root = above.nth(2).filter(|_| fits).ok_or(REAL)?.to_owned();
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("auto", "/")]
    #[case("daemon", "/")]
    #[case("local", "/")]
    #[case("local?root=/mnt/nix", "/mnt/nix")]
    #[case("local?trusted=true&root=/mnt/a%20b%2fc", "/mnt/a b/c")]
    #[case("local?root=", "/")]
    #[case("/mnt/nix", "/mnt/nix")]
    #[case("unix:///run/nix.sock", "/")]
    #[case("unix:///run/nix.sock?root=/host", "/host")]
    #[case("local?real=/host/nix/store", "/host")]
    #[case("local?store=/nix/store&state=/var/nix", "/")]
    #[case("/a%20b", "/a%20b")]
    fn stores_on_this_machine(#[case] uri: &str, #[case] root: &str) {
        let store = NixStore::parse(uri).expect(uri);
        assert_eq!(store.root(), StoreRoot::new(root));
        assert_eq!(store.uri(), uri);
    }

    #[rstest]
    #[case("", KINDS)]
    #[case("ssh-ng://builder", KINDS)]
    #[case("https://cache.nixos.org", KINDS)]
    #[case("s3://bucket?region=x", KINDS)]
    #[case("./store", KINDS)]
    #[case("unix://relative", KINDS)]
    #[case("local?root=store", ROOT)]
    #[case("local?real=/host/store", REAL)]
    #[case("local?real=nix/store", REAL)]
    #[case("local?store=/gnu/store", LOGICAL)]
    fn stores_that_images_cannot_be_packed_from(#[case] uri: &str, #[case] allowed: &'static str) {
        assert_eq!(NixStore::parse(uri), Err(NixStoreError { allowed }));
    }

    proptest! {
        #[test]
        fn any_text_is_a_store_or_an_error(text in "(local|/a|unix:///b)?[?&=%/a-z0-9 \u{e9}]{0,30}") {
            if let Ok(store) = NixStore::parse(&text) {
                prop_assert!(store.root().prefix().is_absolute());
            }
        }

        #[test]
        fn an_encoded_folder_is_decoded(folder in "/[ -~]{0,20}") {
            let encoded: String = folder.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let store = NixStore::parse(&format!("local?root={encoded}")).expect("a store");
            prop_assert_eq!(store.root(), StoreRoot::new(folder));
        }
    }
}
