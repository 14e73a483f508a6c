//! Packing the plain way: the tar crate, flate2 with zlib-rs at level 6, SHA-256 on both sides, one
//! thread, file by file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use flate2::GzBuilder;
use flate2::write::GzEncoder;
use nixery_core::{StorePath, StoreRoot};
use nixery_manifest::{Digest, Digester};
use tar::{Builder, EntryType, Header};

/// zlib's own default.
const LEVEL: u32 = 6;

/// What the baseline knows of its layer.
#[derive(Debug)]
pub struct PlainLayer {
    /// SHA-256 of the gzip file.
    pub digest: Digest,
    /// SHA-256 of the tar.
    pub diff_id: Digest,
    /// Bytes of the gzip file.
    pub size: u64,
    /// Bytes of the tar.
    pub tar_size: u64,
}

/// Hashes what it passes on.
struct Tee<W> {
    digester: Digester,
    out: W,
}

impl<W> Tee<W> {
    fn new(out: W) -> Self {
        let digester = Digester::new();
        Self { digester, out }
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digester.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Packs store paths of `/nix/store`, in the order they have.
///
/// # Errors
/// What reading or writing says.
pub fn pack<W: Write>(
    paths: &[StorePath],
    store: &StoreRoot,
    out: W,
) -> io::Result<(PlainLayer, W)> {
    let gzip = GzBuilder::new()
        .mtime(0)
        .write(Tee::new(out), flate2::Compression::new(LEVEL));
    let mut tar = Builder::new(Tee::new(gzip));
    for parent in ["nix/", "nix/store/"] {
        directory(&mut tar, Path::new(parent), 0o755)?;
    }
    for path in paths {
        append(
            &mut tar,
            &store.locate(path),
            Path::new(&path.as_str()[1..]),
        )?;
    }
    let tar = tar.into_inner()?;
    let gzip = tar.out.finish()?;
    let layer = PlainLayer {
        size: gzip.digester.bytes(),
        digest: gzip.digester.finish(),
        tar_size: tar.digester.bytes(),
        diff_id: tar.digester.finish(),
    };
    Ok((layer, gzip.out))
}

type Tar<W> = Builder<Tee<GzEncoder<Tee<W>>>>;

fn append<W: Write>(tar: &mut Tar<W>, from: &Path, name: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_dir() {
        directory(tar, name, 0o555)?;
        let mut names: Vec<_> = fs::read_dir(from)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for child in names {
            append(tar, &from.join(&child), &name.join(&child))?;
        }
        return Ok(());
    }
    if metadata.is_symlink() {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        return tar.append_link(&mut header, name, fs::read_link(from)?);
    }
    let mut header = header(EntryType::Regular, 0o444, metadata.len());
    tar.append_data(&mut header, name, File::open(from)?)
}

fn directory<W: Write>(tar: &mut Tar<W>, name: &Path, mode: u32) -> io::Result<()> {
    let mut header = header(EntryType::Directory, mode, 0);
    tar.append_data(&mut header, name, io::empty())
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use nixery_core::{Codec, pack_layer};
    use std::io::Read;

    /// The files with their contents, sorted.
    fn entries(gzip: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(gzip));
        let entries = archive.entries().expect("a tar");
        let mut entries: Vec<_> = entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let mut contents = Vec::new();
                entry.read_to_end(&mut contents).expect("its contents");
                let name = entry.path_bytes().into_owned();
                let name = name.strip_suffix(b"/").unwrap_or(&name).to_vec();
                (name, contents)
            })
            .collect();
        entries.sort();
        entries
    }

    /// The baseline is a fair one only if it packs the same.
    #[test]
    fn the_baseline_packs_the_same_files() {
        let root = tempfile::tempdir().expect("a folder");
        let store = StoreRoot::new(root.path());
        let path = crate::trees::store_path(1);
        let at = store.locate(&path);
        fs::create_dir_all(at.join("bin/empty")).expect("folders");
        fs::write(at.join("bin/program"), vec![7; 3_000_000]).expect("a file");
        fs::write(at.join("x".repeat(120)), "a long name").expect("a file");
        std::os::unix::fs::symlink("bin/program", at.join("link")).expect("a link");
        let paths = [path];
        let (plain, bytes) = pack(&paths, &store, Vec::new()).expect("the baseline's");
        assert_eq!(plain.digest, Digest::of(&bytes));
        let (_, ours) = pack_layer(&paths, &store, Codec::Gzip, Vec::new()).expect("ours");
        assert_eq!(entries(&bytes), entries(&ours));
        assert_eq!(entries(&bytes).len(), 2 + 6);
    }
}
