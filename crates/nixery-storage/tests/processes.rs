//! Tests that need a process of their own: killed processes, full and read-only file systems.
//!
//! Each of these tests starts this program again with one helper test, and passes the helper a
//! directory in an environment variable.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nixery_manifest::Digest;
use nixery_storage::verify::{VerifyOptions, verify};
use nixery_storage::{
    BLOBS, Contents, FilesystemStorage, Folder, Key, PutMode, Storage, StorageError,
};

const ENTRIES: Folder = Folder::new("manifests", Contents::Json);
const FOLDERS: [Folder; 2] = [BLOBS, ENTRIES];

/// The variable with the directory of a helper. It is unset in an ordinary run.
const DIRECTORY: &str = "NIXERY_STORAGE_TEST_DIRECTORY";
/// How often the writer is killed.
const KILLS: u64 = 12;

fn again(helper: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", helper, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory);
    command
}

fn content(i: u64) -> Vec<u8> {
    let mut bytes = i.to_le_bytes().repeat(40_000);
    bytes.truncate(200_000 + i as usize % 1000);
    bytes
}

/// Stores blobs and cache entries until it is killed. Prints a line after each.
#[tokio::test(flavor = "multi_thread")]
async fn helper_writes_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let storage = FilesystemStorage::open(directory.join("store")).unwrap();
    for i in 0.. {
        let bytes = content(i);
        let key = Key::blob(Digest::of(&bytes));
        let spool = directory.join("spool");
        let _ = fs::remove_file(&spool);
        fs::write(&spool, &bytes).unwrap();
        storage.put_file(&key, &spool).await.unwrap();
        let entry = Key::new(ENTRIES, Digest::of(&i.to_le_bytes()));
        let json = format!("{{\"blob\": \"{key}\"}}");
        let _ = storage
            .put(&entry, json.into(), PutMode::Replace)
            .await
            .unwrap();
        storage.delete(&key).await.unwrap();
        storage
            .put(&key, bytes.into(), PutMode::Replace)
            .await
            .map(drop)
            .unwrap();
        println!("\nstored {i}");
    }
}

#[tokio::test]
async fn kill_9_leaves_a_sound_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let tmp = root.join("tmp");
    // Another server on the same root, alive all the time.
    let alive = FilesystemStorage::open(&root).unwrap();
    for round in 0..KILLS {
        let mut writer = again("helper_writes_until_killed", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let stored = lines
            .map_while(Result::ok)
            .filter(|line| line.starts_with("stored"))
            .take(1 + round as usize % 3)
            .count();
        assert!(stored > 0, "the writer stored nothing");
        // A different moment of the next object each round.
        std::thread::sleep(std::time::Duration::from_micros(round * 700));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let report = verify(&alive, &FOLDERS, &VerifyOptions::default(), |_| ())
            .await
            .unwrap();
        assert!(report.is_sound(), "round {round}: {report}");
        assert!(
            report.count(BLOBS) > 0 && report.foreign.is_empty(),
            "{report}"
        );
    }
    let again = FilesystemStorage::open(&root).unwrap();
    let left: Vec<_> = fs::read_dir(&tmp)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert_eq!(
        left.len(),
        2,
        "only the folders of the two that live: {left:?}"
    );
    conformance_of_both(&alive, &again).await;
}

async fn conformance_of_both(one: &dyn Storage, other: &dyn Storage) {
    nixery_storage::conformance::concurrent_writers_agree(one, other).await;
}

/// Runs `helper` with `mount` done first in a mount namespace of its own, which goes with it.
/// `None` where this machine does not allow that.
fn in_namespace(helper: &str, directory: &Path, mount: &str) -> Option<std::process::Output> {
    let mut probe = Command::new("unshare");
    let allowed = probe
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "mount",
            "-t",
            "tmpfs",
            "none",
        ])
        .arg(directory)
        .output()
        .is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("SKIPPED {helper}: no user namespaces here, so no file system can be mounted");
        return None;
    }
    let inner = again(helper, directory);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-e", "-c"])
        .arg(format!("{mount}; shift; exec \"$@\""))
        .arg("sh")
        .arg(directory)
        .arg(inner.get_program())
        .args(inner.get_args())
        .env(DIRECTORY, directory);
    Some(command.output().unwrap())
}

fn assert_passed(output: &std::process::Output) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Fills a file system of 1 MiB.
#[tokio::test]
async fn helper_fills_the_disk() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let storage = FilesystemStorage::open(directory.join("store")).unwrap();
    let small = Key::blob(Digest::of(b"small"));
    let _ = storage
        .put(&small, "small".into(), PutMode::Replace)
        .await
        .unwrap();

    let bytes = vec![1; 2 << 20];
    let key = Key::blob(Digest::of(&bytes));
    let spool = std::env::temp_dir().join(format!("nixery-full-disk-{}", std::process::id()));
    fs::write(&spool, &bytes).unwrap();
    let by_file = storage.put_file(&key, &spool).await;
    fs::remove_file(&spool).unwrap();
    let from_memory = storage
        .put(&key, bytes.into(), PutMode::CreateNew)
        .await
        .map(drop);
    for result in [by_file, from_memory] {
        let error = result.unwrap_err();
        assert!(matches!(error, StorageError::NoSpace { .. }), "{error:?}");
        assert!(error.to_string().contains("no space left"), "{error}");
        assert!(error.to_string().contains(&key.path()), "{error}");
        assert!(error.is_retryable());
    }
    assert_eq!(storage.stat(&key).await.unwrap(), None, "a part was stored");

    // The half-written files are gone: what fitted before fits again.
    let filler = vec![2; 600 << 10];
    let key = Key::blob(Digest::of(&filler));
    let _ = storage
        .put(&key, filler.into(), PutMode::Replace)
        .await
        .unwrap();
    let report = verify(&storage, &FOLDERS, &VerifyOptions::default(), |_| ())
        .await
        .unwrap();
    assert!(report.is_sound() && report.count(BLOBS) == 2, "{report}");

    // Full to the last block: the check says so, reading goes on, a new server does not start.
    let rest = fs::write(directory.join("rest"), vec![3; 2 << 20]);
    assert_eq!(rest.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let error = storage.check().await.unwrap_err();
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error:?}");
    assert_eq!(
        storage.get_bytes(&small, 5).await.unwrap().unwrap(),
        "small"
    );
    let error = FilesystemStorage::open(storage.root()).unwrap_err();
    assert!(error.to_string().contains("no space is left"), "{error}");
    fs::remove_file(directory.join("rest")).unwrap();
    storage.check().await.unwrap();
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=1m none \"$1\"";
    if let Some(output) = in_namespace("helper_fills_the_disk", directory.path(), mount) {
        assert_passed(&output);
    }
}

/// Meets a read-only file system with a store in it.
#[tokio::test]
async fn helper_reads_a_read_only_store() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let root = Path::new(&directory).join("store");
    // Without a store there is nothing to serve.
    let error = FilesystemStorage::open(Path::new(&directory).join("none")).unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    let storage = FilesystemStorage::open(&root).unwrap();
    assert!(storage.is_read_only());
    storage.check().await.unwrap();
    let key = Key::blob(Digest::of(b"stored"));
    let stored = storage.get_bytes(&key, 6).await.unwrap();
    assert_eq!(stored.unwrap(), "stored");
    let report = verify(&storage, &FOLDERS, &VerifyOptions::default(), |_| ())
        .await
        .unwrap();
    assert!(report.is_sound(), "{report}");
    let key = Key::blob(Digest::of(b""));
    let error = storage
        .put(&key, "".into(), PutMode::Replace)
        .await
        .unwrap_err();
    assert!(matches!(error, StorageError::Denied { .. }), "{error:?}");
}

#[test]
fn a_read_only_store_is_opened_and_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let stored = Digest::of(b"stored").hex();
    let mount = format!(
        "mount -t tmpfs none \"$1\"; mkdir -p \"$1/store/layers\"; printf stored > \"$1/store/layers/{stored}\"; mount -o remount,ro \"$1\""
    );
    if let Some(output) = in_namespace("helper_reads_a_read_only_store", directory.path(), &mount) {
        assert_passed(&output);
    }
}
