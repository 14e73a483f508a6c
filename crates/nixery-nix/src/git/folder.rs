//! The folder of a mirror, which processes share.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Held, shared, by each process that uses the mirror.
const IN_USE: &str = "lock";
/// Held by the process that fetches.
const FETCH: &str = "fetch.lock";
/// Held by the process that packs the objects of the repository.
const MAINTENANCE: &str = "maintenance.lock";
/// The repository. It is not a bare one: Nix reads those through a copy of its own.
const REPOSITORY: &str = "repository";
/// Mirrors that are kept, of the repositories and refs that were used last.
const MOST_MIRRORS: usize = 4;

/// A folder that no process deletes while this value exists.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _in_use: File,
}

impl Folder {
    /// Makes or finds the folder `name` below `mirrors`. Removes mirrors that were not used for
    /// the longest time, if there are too many.
    ///
    /// # Errors
    /// This user cannot write there.
    pub(super) fn open(mirrors: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(mirrors)?;
        // It becomes a part of URLs.
        let mirrors = mirrors.canonicalize()?;
        let path = mirrors.join(name);
        let in_use = loop {
            fs::create_dir_all(&path)?;
            let lock = File::create(path.join(IN_USE))?;
            ignore_unsupported(lock.lock_shared())?;
            // Another process may have deleted the folder before the lock was taken.
            let found = fs::metadata(path.join(IN_USE));
            if found.is_ok_and(|found| same_file(&found, &lock)) {
                break lock;
            }
        };
        in_use.set_modified(std::time::SystemTime::now())?;
        remove_oldest(&mirrors, &path);
        Ok(Self {
            path,
            _in_use: in_use,
        })
    }

    pub(super) fn repository(&self) -> PathBuf {
        self.path.join(REPOSITORY)
    }

    /// Whether there is a repository, which somebody may have deleted.
    pub(super) fn has_repository(&self) -> bool {
        self.repository().join(".git/HEAD").exists()
    }

    /// Returns the right to fetch, unless another process has it.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn try_fetch(&self) -> io::Result<Option<File>> {
        self.try_lock(FETCH)
    }

    /// Returns the right to pack objects, unless another process has it.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn try_maintain(&self) -> io::Result<Option<File>> {
        self.try_lock(MAINTENANCE)
    }

    fn try_lock(&self, name: &str) -> io::Result<Option<File>> {
        let lock = File::create(self.path.join(name))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => ignore_unsupported(Err(error)).map(|()| Some(lock)),
        }
    }

    /// Removes what a killed git left behind: locks, which make later fetches fail, and parts of
    /// packs. The caller has the right to fetch.
    pub(super) fn remove_leftovers(&self) {
        // Else they may belong to a process that is at work.
        let Ok(Some(_right)) = self.try_maintain() else {
            return;
        };
        let git = self.repository().join(".git");
        let is_lock = |name: &str| name.ends_with(".lock");
        remove_files(&git, false, is_lock);
        remove_files(&git.join("refs"), true, is_lock);
        remove_files(&git.join("objects/info"), true, is_lock);
        remove_files(&git.join("objects/pack"), false, |name| {
            name.starts_with("tmp_")
        });
    }

    /// Removes the repository, which is damaged.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn remove_repository(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.repository()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn same_file(found: &fs::Metadata, file: &File) -> bool {
    file.metadata()
        .is_ok_and(|file| (file.dev(), file.ino()) == (found.dev(), found.ino()))
}

/// Some file systems, over a network, have no locks. Then nothing is removed from them.
fn ignore_unsupported(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

/// Removes the mirrors that were not used for the longest time, except `ours` and those in use.
fn remove_oldest(mirrors: &Path, ours: &Path) {
    let entries = fs::read_dir(mirrors).into_iter().flatten().flatten();
    let mut others: Vec<_> = entries
        .filter(|entry| entry.path() != ours)
        .filter_map(|entry| {
            let lock = entry.path().join(IN_USE);
            let used = fs::metadata(&lock).ok()?.modified().ok()?;
            Some((used, entry.path(), lock))
        })
        .collect();
    others.sort_unstable();
    let mut surplus = (others.len() + 1).saturating_sub(MOST_MIRRORS);
    for (_, path, lock) in others {
        if surplus == 0 {
            break;
        }
        let Ok(lock) = File::open(lock) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        surplus -= 1;
        let shown = path.display();
        match fs::remove_dir_all(&path) {
            Ok(()) => {
                tracing::info!(path = %shown, "removed the mirror of a git repository that is no longer used")
            }
            Err(error) => {
                tracing::warn!(path = %shown, %error, "cannot remove the mirror of a git repository that is no longer used");
            }
        }
    }
}

/// Removes the files of a folder whose names are `unwanted`.
fn remove_files(folder: &Path, recursive: bool, unwanted: impl Fn(&str) -> bool + Copy) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && recursive {
            remove_files(&entry.path(), true, unwanted);
        } else if !is_folder && entry.file_name().to_str().is_some_and(unwanted) {
            // What cannot be removed is reported by git.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mirrors: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(mirrors)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_mirrors_that_were_not_used_for_the_longest_time_are_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = Folder::open(dir.path(), "0").expect("opens");
        for name in ["1", "2", "3", "4", "5"] {
            let folder = Folder::open(dir.path(), name).expect("opens");
            fs::create_dir_all(folder.repository()).expect("mkdir");
        }
        assert_eq!(
            names(dir.path()),
            ["0", "3", "4", "5"],
            "the first is in use"
        );
        drop(first);
        drop(Folder::open(dir.path(), "3").expect("opens"));
        drop(Folder::open(dir.path(), "6").expect("opens"));
        assert_eq!(names(dir.path()), ["3", "4", "5", "6"]);
    }

    #[test]
    fn one_process_fetches_at_a_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        let one = Folder::open(dir.path(), "x").expect("opens");
        let other = Folder::open(dir.path(), "x").expect("opens");
        let right = one.try_fetch().expect("works");
        assert!(right.is_some());
        assert!(other.try_fetch().expect("works").is_none());
        drop(right);
        assert!(other.try_fetch().expect("works").is_some());
    }

    #[test]
    fn leftovers_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temp dir");
        let folder = Folder::open(dir.path(), "x").expect("opens");
        let git = folder.repository().join(".git");
        for sub in ["refs/mirror/heads", "objects/pack", "objects/info"] {
            fs::create_dir_all(git.join(sub)).expect("mkdir");
        }
        let kept = ["HEAD", "refs/mirror/heads/main", "objects/pack/pack-1.pack"];
        let left = [
            "packed-refs.lock",
            "refs/mirror/heads/main.lock",
            "objects/pack/tmp_pack_x",
        ];
        for name in kept.iter().chain(&left) {
            fs::write(git.join(name), "").expect("write");
        }
        folder.remove_leftovers();
        for name in kept {
            assert!(git.join(name).exists(), "{name}");
        }
        for name in left {
            assert!(!git.join(name).exists(), "{name}");
        }
        fs::write(git.join(left[0]), "").expect("write");
        let other = Folder::open(dir.path(), "x").expect("opens");
        let right = other.try_maintain().expect("works");
        folder.remove_leftovers();
        assert!(git.join(left[0]).exists(), "another process is at work");
        drop(right);
        folder.remove_leftovers();
        assert!(!git.join(left[0]).exists());
        assert!(folder.has_repository());
        folder.remove_repository().expect("removes");
        assert!(!folder.has_repository());
        folder.remove_repository().expect("is gone already");
    }
}
