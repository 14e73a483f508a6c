//! The hash of a path on disk as Nix's archive format, NAR.
//!
//! The format is in the Nix manual, "Nix Archive (NAR) format": every token is a string, after its
//! length as a 64-bit little-endian number, padded with zeros to a multiple of eight bytes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::nar_hash::NarHash;

/// Bytes of a file that are read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Why the NAR hash of a path could not be computed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path:?}")]
#[non_exhaustive]
pub struct NarError {
    /// The file, directory or link that cannot be read.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

impl NarHash {
    /// Computes the hash of a file, directory or symbolic link as a NAR. This is the hash that
    /// `nix-store --dump PATH | sha256sum` prints.
    ///
    /// # Errors
    /// Something at or below the path cannot be read, changes meanwhile, or is of another type.
    pub fn of_path(path: impl AsRef<Path>) -> Result<Self, NarError> {
        let mut nar = NarHasher {
            hash: Sha256::new(),
            buffer: vec![0; BUFFER_BYTES],
        };
        nar.token(b"nix-archive-1");
        nar.node(path.as_ref())?;
        Ok(Self::from_bytes(nar.hash.finalize().into()))
    }
}

struct NarHasher {
    hash: Sha256,
    buffer: Vec<u8>,
}

impl NarHasher {
    fn tokens(&mut self, tokens: &[&[u8]]) {
        for token in tokens {
            self.token(token);
        }
    }

    fn token(&mut self, bytes: &[u8]) {
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
        self.pad(bytes.len() as u64);
    }

    fn pad(&mut self, length: u64) {
        let padding = length.wrapping_neg() % 8;
        self.hash.update(&[0; 8][..padding as usize]);
    }

    fn node(&mut self, path: &Path) -> Result<(), NarError> {
        let failed = |source| NarError {
            path: path.to_owned(),
            source,
        };
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let kind = metadata.file_type();
        self.tokens(&[b"(", b"type"]);
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(failed)?;
            self.tokens(&[b"symlink", b"target", target.as_os_str().as_bytes()]);
        } else if kind.is_file() {
            self.token(b"regular");
            if metadata.permissions().mode() & 0o100 != 0 {
                self.tokens(&[b"executable", b""]);
            }
            self.contents(path, metadata.len()).map_err(failed)?;
        } else if kind.is_dir() {
            self.token(b"directory");
            let entries = fs::read_dir(path).map_err(failed)?;
            let names = entries.map(|entry| Ok(entry?.file_name()));
            let mut names = names.collect::<io::Result<Vec<_>>>().map_err(failed)?;
            names.sort_unstable();
            for name in names {
                self.tokens(&[b"entry", b"(", b"name", name.as_bytes(), b"node"]);
                self.node(&path.join(&name))?;
                self.token(b")");
            }
        } else {
            let message = "not a file, directory or symbolic link";
            return Err(failed(io::Error::new(io::ErrorKind::Unsupported, message)));
        }
        self.token(b")");
        Ok(())
    }

    fn contents(&mut self, path: &Path, length: u64) -> io::Result<()> {
        let mut file = File::open(path)?;
        self.token(b"contents");
        self.hash.update(length.to_le_bytes());
        let mut hashed = 0;
        loop {
            let read = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.hash.update(&self.buffer[..read]);
            hashed += read as u64;
        }
        if hashed != length {
            return Err(io::Error::other("the file changed while it was read"));
        }
        self.pad(length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The hashes are those of `nix-store --dump | sha256sum`.
    #[test]
    fn hashes_are_those_of_nix() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "hello\n").unwrap();
        set_mode(&at("file"), 0o644);
        fs::create_dir_all(at("tree/bin")).unwrap();
        fs::create_dir(at("tree/empty")).unwrap();
        fs::write(at("tree/bin/program"), "12345678").unwrap();
        set_mode(&at("tree/bin/program"), 0o755);
        fs::write(at("tree/a"), "").unwrap();
        set_mode(&at("tree/a"), 0o600);
        symlink("bin/program", at("tree/link")).unwrap();
        let hash = |name: &str| NarHash::of_path(at(name)).unwrap().to_string();
        assert_eq!(
            hash("file"),
            "sha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM="
        );
        assert_eq!(
            hash("tree"),
            "sha256-7PhyJaaPXSLNZNx+Hud/Rze9bUSHRaQnQkprY1aIaf4="
        );
        assert_eq!(
            hash("tree/link"),
            "sha256-gbcRm5EDst+/krmLNB9o+L27Y+qz+BrmAj8EKlVAv0I="
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = NarHash::of_path(&missing).unwrap_err();
        assert_eq!(error.path, missing);
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
        let error = NarHash::of_path(directory.path()).unwrap_err();
        assert_eq!(error.path, directory.path().join("s"));
        assert_eq!(error.source.kind(), io::ErrorKind::Unsupported);
    }
}
