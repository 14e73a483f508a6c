//! Trees to pack: a fake store, filled with programs and libraries of this machine.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nixery_core::{StorePath, StoreRoot};

/// Where programs and libraries are.
const SOURCES: [&str; 3] = ["/usr/bin", "/usr/lib", "/usr/share"];

/// Files larger than this are left out, so that there are many.
const LARGEST: u64 = 30_000_000;

/// A store path of this number; sorted like the numbers.
#[must_use]
pub fn store_path(number: usize) -> StorePath {
    let path = format!("/nix/store/{number:032}-bench-1");
    StorePath::parse(&path).expect("digits are characters of a hash")
}

/// Trees below one folder, which disappears when dropped.
pub struct Trees {
    directory: tempfile::TempDir,
    next: usize,
}

impl Trees {
    /// Makes the folder, empty, below `parent`.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        let directory = tempfile::tempdir_in(parent)?;
        Ok(Self { directory, next: 0 })
    }

    /// The store they are in.
    #[must_use]
    pub fn store(&self) -> StoreRoot {
        StoreRoot::new(self.directory.path())
    }

    /// Where files may be put that are not packed.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    fn add(&mut self) -> io::Result<(StorePath, PathBuf)> {
        self.next += 1;
        let path = store_path(self.next);
        let at = self.store().locate(&path);
        fs::create_dir_all(&at)?;
        Ok((path, at))
    }

    /// So many store paths which share about so many bytes of this machine's programs and
    /// libraries: nine tenths from `/usr/bin` and `/usr/lib`, the rest, text mostly, from
    /// `/usr/share`.
    ///
    /// # Errors
    /// What reading or writing says, or that there is not enough to copy.
    pub fn programs(&mut self, paths: usize, bytes: u64) -> io::Result<Vec<StorePath>> {
        let shares = [bytes * 3 / 10, bytes * 6 / 10, bytes / 10];
        let mut files = Vec::new();
        for (source, share) in SOURCES.iter().zip(shares) {
            let mut left = share;
            collect(Path::new(source), &mut left, &mut files)?;
        }
        let total: u64 = files.iter().map(|(_, size)| size).sum();
        if total < bytes * 8 / 10 {
            return Err(io::Error::other(format!(
                "only {total} bytes of programs and libraries here; {bytes} are needed"
            )));
        }
        let (mut made, mut copied) = (Vec::new(), 0);
        let mut place = None;
        for (file, size) in files {
            if place.is_none() || copied >= total * made.len() as u64 / paths as u64 {
                let (path, at) = self.add()?;
                made.push(path);
                place = Some(at);
            }
            let at = place
                .as_ref()
                .expect("just made")
                .join(&file.as_os_str().to_string_lossy()[1..]);
            fs::create_dir_all(at.parent().expect("it is below a store path"))?;
            fs::copy(&file, &at)?;
            copied += size;
        }
        Ok(made)
    }

    /// A store path with so many small files, 6.3 kB on average, cut from those of another one.
    ///
    /// # Errors
    /// What reading or writing says.
    pub fn small_files(&mut self, of: &[StorePath], files: usize) -> io::Result<StorePath> {
        let mut source = Vec::new();
        for path in of {
            read_all(&self.store().locate(path), files * 7_000, &mut source)?;
        }
        let (path, at) = self.add()?;
        let mut rest = &source[..];
        for number in 0..files {
            let folder = at.join(format!("share/{:03}", number / 50));
            fs::create_dir_all(&folder)?;
            // 100 to 12,500 bytes.
            let size = rest.len().min(100 + number * 7_919 % 12_400);
            fs::write(folder.join(format!("file{number:05}")), &rest[..size])?;
            rest = &rest[size..];
        }
        Ok(path)
    }

    /// A store path that is one file of so many bytes, those of other ones over and over.
    ///
    /// # Errors
    /// What reading or writing says.
    pub fn large_file(&mut self, of: &[StorePath], bytes: u64) -> io::Result<StorePath> {
        let mut source = Vec::new();
        for path in of {
            let size = usize::try_from(bytes).unwrap_or(usize::MAX);
            read_all(&self.store().locate(path), size.min(64 << 20), &mut source)?;
        }
        let (path, at) = self.add()?;
        let mut file = File::create(at.join("large"))?;
        let mut left = bytes;
        while left > 0 {
            let size = usize::try_from(left).map_or(source.len(), |left| left.min(source.len()));
            file.write_all(&source[..size])?;
            left -= size as u64;
        }
        Ok(path)
    }
}

/// The regular files below a folder in the order of their names, until they have so many bytes.
fn collect(at: &Path, left: &mut u64, files: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(at)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), left, files)?;
        } else if kind.is_file() {
            let size = entry.metadata()?.len();
            let readable = || File::open(entry.path()).is_ok();
            if size <= LARGEST.min(*left) && readable() {
                *left -= size;
                files.push((entry.path(), size));
            }
        }
    }
    Ok(())
}

/// Appends the contents of the files below `at` until there are so many bytes.
fn read_all(at: &Path, bytes: usize, to: &mut Vec<u8>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(at)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            read_all(&entry.path(), bytes, to)?;
        } else {
            let missing = bytes.saturating_sub(to.len()) as u64;
            File::open(entry.path())?.take(missing).read_to_end(to)?;
        }
    }
    Ok(())
}
