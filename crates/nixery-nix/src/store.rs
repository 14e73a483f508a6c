//! Which Nix store is used, and where its files are on this machine.

use std::path::{Path, PathBuf};

use nixery_core::StoreRoot;

/// A Nix store by its URI, as `--store` and `NIX_REMOTE` take it, whose files this machine can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixStore {
    uri: String,
    root: PathBuf,
}

/// Why a store cannot be used: what may stand there instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NixStoreError(&'static str);

const KINDS: NixStoreError = NixStoreError(
    "`auto`, `daemon`, `unix://` and a socket, `local`, `local?root=` and an absolute folder, or such a folder alone; \
     images are packed from the store's files, so a store on another machine is of use as a builder or substituter only",
);
const ROOT: NixStoreError = NixStoreError("an absolute folder after `root=`");
const REAL: NixStoreError = NixStoreError("a folder that ends in /nix/store after `real=`");
const LOGICAL: NixStoreError = NixStoreError("a store whose paths begin with /nix/store");

impl NixStore {
    /// Takes a URI apart. Does not look at the file system.
    ///
    /// # Errors
    /// It is no store, or one whose files are not on this machine, or whose paths are not below `/nix/store`.
    pub fn parse(uri: &str) -> Result<Self, NixStoreError> {
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
            let value = percent_decoded(value);
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
        Ok(Self {
            uri: uri.to_owned(),
            root,
        })
    }

    /// The URI, for `--store`.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Where its files are.
    #[must_use]
    pub fn root(&self) -> StoreRoot {
        StoreRoot::new(&self.root)
    }
}

/// The text with each `%41` made an `A`. What is no such code, or would not be UTF-8, stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
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
    fn stores_that_images_cannot_be_packed_from(
        #[case] uri: &str,
        #[case] expected: NixStoreError,
    ) {
        assert_eq!(NixStore::parse(uri), Err(expected));
    }

    proptest! {
        #[test]
        fn any_text_is_a_store_or_refused(text in "(local|/a|unix:///b)?[?&=%/a-z0-9 \u{e9}]{0,30}") {
            if let Ok(store) = NixStore::parse(&text) {
                prop_assert!(store.root().prefix().is_absolute());
            }
        }

        #[test]
        fn what_is_encoded_comes_back(folder in "/[ -~]{0,20}") {
            let encoded: String = folder.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(percent_decoded(&encoded), folder);
        }
    }
}
