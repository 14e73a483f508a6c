//! Tests of the filesystem backend alone. `tests/processes.rs` has dead processes and full disks.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use futures::{StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use rstest::{fixture, rstest};
use tempfile::TempDir;

use super::*;
use crate::verify::{VerifyOptions, verify};
use crate::{Contents, Entry, conformance};

const ENTRIES: Folder = Folder::new("builds", Contents::Json).with_sha1_names();

/// A store, and its directory, which is removed when the test ends.
struct Store {
    storage: FilesystemStorage,
    directory: TempDir,
}

#[fixture]
fn store() -> Store {
    let directory = tempfile::tempdir().unwrap();
    let storage = FilesystemStorage::open(directory.path().join("store")).unwrap();
    Store { storage, directory }
}

impl Store {
    fn spool(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("spool");
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.storage.root().join(key.path())
    }

    /// The files in the temporary folders, without the locks.
    fn leftovers(&self) -> Vec<PathBuf> {
        leftovers(self.storage.root())
    }
}

fn leftovers(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root.join("tmp"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("owner.lock"))
        .collect()
}

fn blob(bytes: &[u8]) -> Key {
    Key::blob(Digest::of(bytes))
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn conforms(store: Store) {
    conformance::all(&store.storage).await;
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_root(store: Store) {
    let other = FilesystemStorage::open(store.storage.root()).unwrap();
    conformance::concurrent_writers_agree(&store.storage, &other).await;
    conformance::one_creator_wins(&store.storage, &other).await;
}

#[rstest]
#[tokio::test]
async fn objects_lie_where_the_layout_says_and_are_read_only(store: Store) {
    let key = blob(b"bytes");
    store
        .storage
        .put_file(&key, &store.spool(b"bytes"))
        .await
        .unwrap();
    let metadata = fs::metadata(store.path(&key)).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o444);
    assert_eq!(fs::read(store.path(&key)).unwrap(), b"bytes");
}

#[rstest]
#[tokio::test]
async fn a_spool_on_the_same_file_system_is_not_copied(store: Store) {
    let (key, spool) = (blob(b"bytes"), store.spool(b"bytes"));
    store.storage.put_file(&key, &spool).await.unwrap();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&store.path(&key)), inode(&spool));
    // Storing the same file again works, although rename(2) does nothing then.
    fs::remove_file(store.path(&key)).unwrap();
    for _ in 0..2 {
        store.storage.put_file(&key, &spool).await.unwrap();
    }
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
}

#[rstest]
#[tokio::test]
async fn a_spool_behind_a_link_is_copied_and_not_linked(store: Store) {
    let key = blob(b"bytes");
    let link = store.directory.path().join("link");
    symlink(store.spool(b"bytes"), &link).unwrap();
    store.storage.put_file(&key, &link).await.unwrap();
    assert!(fs::symlink_metadata(store.path(&key)).unwrap().is_file());
    assert_eq!(fs::read(store.path(&key)).unwrap(), b"bytes");
}

#[rstest]
#[tokio::test]
async fn a_blob_of_another_size_heals_and_one_of_this_size_is_left(store: Store) {
    let bytes = vec![7; 300_000];
    let key = blob(&bytes);
    store
        .storage
        .put_file(&key, &store.spool(&bytes))
        .await
        .unwrap();
    let before = fs::metadata(store.path(&key)).unwrap().ino();
    store
        .storage
        .put_file(&key, &store.spool(&bytes))
        .await
        .unwrap();
    assert_eq!(
        fs::metadata(store.path(&key)).unwrap().ino(),
        before,
        "written twice"
    );

    fs::remove_file(store.path(&key)).unwrap();
    fs::write(store.path(&key), &bytes[..1000]).unwrap();
    store
        .storage
        .put_file(&key, &store.spool(&bytes))
        .await
        .unwrap();
    assert_eq!(fs::read(store.path(&key)).unwrap(), bytes);
}

#[rstest]
#[case::in_the_first_chunk(300_000, 1000)]
#[case::at_a_chunk_boundary(600_000, 256 * 1024)]
#[case::in_a_later_chunk(900_000, 600_000)]
#[case::to_nothing(600_000, 0)]
#[tokio::test]
async fn a_file_that_shrinks_under_a_reader_is_an_error(
    store: Store,
    #[case] size: usize,
    #[case] left: u64,
) {
    let bytes = vec![7; size];
    let key = blob(&bytes);
    store
        .storage
        .put_file(&key, &store.spool(&bytes))
        .await
        .unwrap();
    let reader = store.storage.get(&key, None).await.unwrap().unwrap();
    // Objects are read-only, but root may write to them, and the owner after a chmod.
    fs::set_permissions(store.path(&key), fs::Permissions::from_mode(0o644)).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(store.path(&key))
        .unwrap()
        .set_len(left)
        .unwrap();
    let result: Result<Vec<Bytes>, _> = reader.body.try_collect().await;
    match result {
        // The only chunk was read before the file shrank.
        Ok(chunks) => assert_eq!(chunks.concat(), bytes),
        Err(StorageError::Truncated {
            expected, actual, ..
        }) => {
            assert_eq!(expected, size as u64);
            assert!(actual < expected);
        }
        Err(other) => panic!("{other:?}"),
    }
    // `stat` now reports the actual size, and `verify` reports the defect.
    let stat = store.storage.stat(&key).await.unwrap().unwrap();
    assert_eq!(stat.size, left);
    let report = verify(&store.storage, &[BLOBS], &VerifyOptions::default(), |_| ())
        .await
        .unwrap();
    assert_eq!(report.defects.len(), 1, "{report}");
    assert_eq!(report.defects[0].key, key);
}

#[rstest]
#[tokio::test]
async fn foreign_names_are_listed_apart_and_never_touched(store: Store) {
    use std::os::unix::ffi::OsStrExt;
    let key = blob(b"bytes");
    store
        .storage
        .put_file(&key, &store.spool(b"bytes"))
        .await
        .unwrap();
    let layers = store.storage.root().join("layers");
    let hex = Digest::of(b"a folder").hex();
    fs::create_dir(layers.join(&hex)).unwrap();
    fs::write(layers.join("README"), "mine").unwrap();
    fs::write(layers.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    fs::write(layers.join(".probe-of-a-dead-process"), "").unwrap();
    let sha1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    let builds = store.storage.root().join("builds");
    fs::create_dir(&builds).unwrap();
    fs::write(builds.join(sha1), "{}").unwrap();

    let entries: Vec<Entry> = store
        .storage
        .list(BLOBS)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let keys: Vec<_> = entries.iter().filter_map(|entry| entry.key).collect();
    assert_eq!(keys, [key]);

    let options = VerifyOptions {
        delete_corrupt: true,
        ..VerifyOptions::default()
    };
    let report = verify(&store.storage, &[BLOBS, ENTRIES], &options, |_| ())
        .await
        .unwrap();
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.count(BLOBS), report.count(ENTRIES)), (1, 1));
    assert_eq!(report.legacy, 1);
    let folder = format!("layers/{hex}");
    let mut foreign = ["layers/README", "layers/\u{fffd}", folder.as_str()];
    foreign.sort_unstable();
    assert_eq!(report.foreign, foreign);
    assert!(layers.join("README").exists());

    // A folder with an object's name is not an object, and the error keeps its cause.
    let error = store
        .storage
        .get(&Key::from_name(BLOBS, &hex).unwrap(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, StorageError::Failed { .. }), "{error:?}");
}

#[rstest]
#[tokio::test]
async fn a_root_that_is_cleared_under_a_running_server_is_made_again(store: Store) {
    let key = blob(b"bytes");
    for entry in fs::read_dir(store.storage.root()).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    assert!(store.storage.get(&key, None).await.unwrap().is_none());
    let listing = store.storage.list(BLOBS).await.unwrap();
    assert_eq!(listing.count().await, 0);
    store
        .storage
        .put_file(&key, &store.spool(b"bytes"))
        .await
        .unwrap();
    let cache = Key::new(ENTRIES, Digest::of(b"key"));
    let put = store
        .storage
        .put(&cache, "{}".into(), PutMode::CreateNew)
        .await;
    assert_eq!(put.unwrap(), PutOutcome::Stored);
    store.storage.check().await.unwrap();
    assert!(store.storage.stat(&key).await.unwrap().is_some());
}

#[test]
fn the_temporary_folder_goes_with_the_last_clone() {
    let directory = tempfile::tempdir().unwrap();
    let storage = FilesystemStorage::open(directory.path()).unwrap();
    let folders = || {
        let entries = fs::read_dir(directory.path().join("tmp")).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
    };
    let clone = storage.clone();
    drop(storage);
    assert_eq!(folders(), 1);
    drop(clone);
    assert_eq!(folders(), 0);
}

#[test]
fn only_the_temporary_files_of_the_dead_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let alive = FilesystemStorage::open(directory.path()).unwrap();
    let writing = alive.root.scratch.file().unwrap();
    // As after kill -9: with a lock file that is not locked, and without one.
    let tmp = directory.path().join("tmp");
    for (name, file) in [
        ("writer-dead", "owner.lock"),
        ("writer-deader", "half a blob"),
    ] {
        fs::create_dir(tmp.join(name)).unwrap();
        fs::write(tmp.join(name).join(file), "").unwrap();
        fs::write(tmp.join(name).join("another"), "").unwrap();
    }
    fs::write(tmp.join("not-ours"), "").unwrap();

    let _other = FilesystemStorage::open(directory.path()).unwrap();
    assert_eq!(leftovers(directory.path()), [writing.path()]);
    assert!(!tmp.join("writer-dead").exists() && !tmp.join("writer-deader").exists());
    assert!(tmp.join("not-ours").exists());
}

#[rstest]
#[case::a_file("file", "not a directory")]
#[case::below_a_file("file/store", "not a directory")]
#[case::a_file_inside("half", "not a directory")]
#[case::a_device("/dev/null", "not a directory")]
#[case::no_file_system_for_it("/proc/nixery", "no such directory")]
fn a_root_that_cannot_be_used_is_refused(#[case] root: &str, #[case] problem: &str) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    fs::create_dir(directory.path().join("half")).unwrap();
    fs::write(directory.path().join("half/layers"), "").unwrap();
    let root = directory.path().join(root);
    let error = FilesystemStorage::open(&root).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&root.display().to_string()), "{message}");
    assert!(message.contains(problem), "{message}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn an_existing_store_is_opened_without_a_trace() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path, problem: &str| {
        let error = FilesystemStorage::open_existing(path).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    };
    refused(&directory.path().join("missing"), "no such directory");
    refused(directory.path(), "contains no store");
    fs::create_dir(directory.path().join("layers")).unwrap();
    FilesystemStorage::open_existing(directory.path()).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[rstest]
#[tokio::test]
async fn a_folder_that_cannot_be_written_to_fails_the_check_and_the_writes(store: Store) {
    // Permission bits do not stop root, but a file in place of the folder does.
    let layers = store.storage.root().join("layers");
    fs::remove_dir(&layers).unwrap();
    fs::write(&layers, "").unwrap();
    let error = store.storage.check().await.unwrap_err();
    assert!(
        error.to_string().contains("failed to check layers"),
        "{error}"
    );
    let key = blob(b"bytes");
    let error = store
        .storage
        .put_file(&key, &store.spool(b"bytes"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&key.path()), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new());
}

/// What another program may put in the place of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    Pipe,
    DanglingLink,
    LinkToAFile,
    Socket,
    Directory,
}

impl Obstacle {
    fn put(self, path: &Path) {
        match self {
            Self::Pipe => {
                let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
            }
            Self::DanglingLink => std::os::unix::fs::symlink("/nonexistent", path).unwrap(),
            Self::LinkToAFile => std::os::unix::fs::symlink("/etc/passwd", path).unwrap(),
            Self::Socket => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
            Self::Directory => fs::create_dir(path).unwrap(),
        }
    }
}

/// None of these calls may hang, as opening a pipe does.
#[rstest]
#[case(Obstacle::Pipe)]
#[case(Obstacle::DanglingLink)]
#[case(Obstacle::LinkToAFile)]
#[case(Obstacle::Socket)]
#[case(Obstacle::Directory)]
#[tokio::test]
async fn what_is_no_file_is_replaced_or_named(store: Store, #[case] obstacle: Obstacle) {
    let (key, storage) = (blob(b"bytes"), &store.storage);
    obstacle.put(&store.path(&key));
    let is_directory = obstacle == Obstacle::Directory;

    let read = storage.get(&key, None).await;
    let looked_up = storage.stat(&key).await;
    if is_directory {
        let errors = [read.unwrap_err(), looked_up.unwrap_err()];
        for error in errors {
            let message = crate::error_chain(&error);
            assert!(message.contains("a directory is in the place"), "{message}");
        }
    } else {
        assert!(read.unwrap().is_none());
        assert_eq!(looked_up.unwrap(), None);
    }
    let entries: Vec<Entry> = storage
        .list(BLOBS)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(entries[0].key, None, "it is foreign");
    let report = verify(storage, &[BLOBS], &VerifyOptions::default(), |_| ()).await;
    assert_eq!(report.unwrap().foreign, [key.path()]);
    let created = storage.put(&key, "bytes".into(), PutMode::CreateNew).await;
    assert!(
        matches!(created, Err(StorageError::Failed { .. })),
        "{created:?}"
    );

    let spool = store.spool(b"bytes");
    let stored = storage.put_file(&key, &spool).await;
    if is_directory {
        stored.unwrap_err();
        assert!(storage.delete(&key).await.is_err());
        return;
    }
    stored.unwrap();
    assert_eq!(storage.get_bytes(&key, 5).await.unwrap().unwrap(), "bytes");
    fs::remove_file(store.path(&key)).unwrap();
    obstacle.put(&store.path(&key));
    assert!(storage.delete(&key).await.unwrap());
    assert!(fs::read("/etc/passwd").is_ok());
}

#[rstest]
#[tokio::test]
async fn an_object_has_another_identity_after_every_change(store: Store) {
    let key = blob(b"bytes");
    let path = store.path(&key);
    let identity = async || {
        let stat = store.storage.stat(&key).await.unwrap().unwrap();
        let reader = store.storage.get(&key, None).await.unwrap().unwrap();
        assert_eq!(reader.stat, stat);
        stat.identity.unwrap()
    };
    let mut seen = Vec::new();
    let put = async || {
        let put = store.storage.put(&key, "bytes".into(), PutMode::Replace);
        let _ = put.await.unwrap();
    };
    put().await;
    seen.push(identity().await);
    assert_eq!(identity().await, seen[0]);
    put().await;
    seen.push(identity().await);
    // One bit in place, and the time of the writing set back.
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    // The kernel's clock of files ticks every few milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&path, "bytez").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(written).unwrap();
    seen.push(identity().await);
    let different: std::collections::HashSet<_> = seen.iter().collect();
    assert_eq!(different.len(), seen.len());
}

#[rstest]
#[case::small(1000)]
#[case::of_several_chunks(900_000)]
#[tokio::test]
async fn an_object_that_is_written_to_is_not_read_to_its_end(store: Store, #[case] size: usize) {
    let bytes = vec![7; size];
    let key = blob(&bytes);
    let put = store.storage.put(&key, bytes.into(), PutMode::Replace);
    let _ = put.await.unwrap();
    fs::set_permissions(store.path(&key), fs::Permissions::from_mode(0o644)).unwrap();
    let mut reader = store.storage.get(&key, None).await.unwrap().unwrap();
    let first = reader.body.next().await.unwrap().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let file = fs::OpenOptions::new().write(true).open(store.path(&key));
    std::os::unix::fs::FileExt::write_at(&file.unwrap(), b"8", size as u64 - 1).unwrap();
    let rest: Result<Vec<Bytes>, _> = reader.body.try_collect().await;
    match rest {
        // It was read before.
        Ok(rest) => assert_eq!((first.len(), rest.len()), (size, 0)),
        Err(error) => {
            assert!(size > first.len() && error.is_retryable(), "{error:?}");
        }
    }
}
