//! Use marks and the collector's note: how builders that need a blob and a collector that deletes
//! it notice each other.
//!
//! The age of `uses/<digest>` says when the blob was last needed. The note lists the blobs that are
//! being deleted now. A builder that wants to rely on an old blob first writes the use mark, then
//! reads the note. The collector first writes the note, then looks for marks. So one of the two
//! notices the other, in whatever order they run: either the collector spares the blob, or the
//! builder waits until it is deleted.
//!
//! There is one note. It is created and never replaced: a collector that counted as dead and
//! continues nevertheless cannot announce anything while another one deletes.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::{Contents, Folder, Key, PutMode, PutOutcome, Storage, StorageError};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::unchanged::Unchanged;

/// Marks whose age says when a blob was last needed, each named by the SHA-256 of the blob.
pub const USES: Folder = Folder::new("uses", Contents::Json);

/// The contents of a mark; only its age counts.
const MARK: &[u8] = b"{}\n";
/// The contents of a collector's mark, which keeps a blob that nobody used. Listings distinguish it
/// from others by its size.
const DROPPED: &[u8] = b"{\"dropped\":true}\n";

/// The note has the name of a use mark that belongs to no blob: every builder that writes marks can
/// read it. Leases may fail, and builders continue without them.
const NOTE: &[u8] = b"gc note";
/// Most bytes of a note; a batch has about 40 kB.
const MAX_NOTE: u64 = 4 * 1024 * 1024;
/// How long after a note was written deletions that it announces may begin.
pub(crate) const VALID: Duration = Duration::from_secs(20);
/// A deletion that takes longer ends the collection.
pub(crate) const SLOWEST_DELETION: Duration = Duration::from_secs(30);
/// A note that stays unchanged for longer belongs to a dead collector: longer than [`VALID`] and
/// [`SLOWEST_DELETION`] together.
const DEAD: Duration = Duration::from_secs(60);
/// After a gap of this length between two looks the observation begins again: the observer may have
/// been stopped itself.
const GAP: Duration = Duration::from_secs(10);
/// How long a collector waits for the notes of another one.
const PATIENCE: Duration = Duration::from_secs(180);
/// Pause between two looks at the note while a blob is being deleted.
const POLL: Duration = Duration::from_millis(500);

/// Marks a blob as used.
///
/// # Errors
/// The store failed.
pub(crate) async fn put_mark(storage: &dyn Storage, digest: Digest) -> Result<(), StorageError> {
    put(storage, digest, MARK).await
}

/// Keeps a blob of an image that is being dropped for one more grace period.
///
/// # Errors
/// The store failed.
pub(crate) async fn keep_dropped(
    storage: &dyn Storage,
    digest: Digest,
) -> Result<(), StorageError> {
    put(storage, digest, DROPPED).await
}

/// Whether a mark of this size records a use, and was not written by a collector.
pub(crate) fn is_use(size: u64) -> bool {
    size != DROPPED.len() as u64
}

async fn put(
    storage: &dyn Storage,
    digest: Digest,
    mark: &'static [u8],
) -> Result<(), StorageError> {
    let (key, mark) = (Key::new(USES, digest), Bytes::from_static(mark));
    storage.put(&key, mark, PutMode::Replace).await.map(drop)
}

#[derive(Serialize, Deserialize)]
struct Note {
    /// For people who look into the store.
    collector: String,
    /// Distinguishes the notes of a collector.
    serial: u64,
    deleting: HashSet<Digest>,
}

fn note_key() -> Key {
    Key::new(USES, Digest::of(NOTE))
}

/// Announces deletions.
pub(crate) struct Announcer<'a> {
    storage: &'a dyn Storage,
    collector: String,
    serial: u64,
    announced: Option<Instant>,
}

impl<'a> Announcer<'a> {
    /// `collector` is a name that no other collector has.
    pub(crate) fn new(storage: &'a dyn Storage, collector: String) -> Self {
        Self {
            storage,
            collector,
            serial: 0,
            announced: None,
        }
    }

    /// Announces the deletion of blobs, and returns when the note was written: until [`VALID`]
    /// later they may be deleted. `None` if another collector deletes all the time.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn announce(
        &mut self,
        deleting: impl IntoIterator<Item = Digest>,
    ) -> Result<Option<Instant>, StorageError> {
        self.serial += 1;
        let note = Note {
            collector: self.collector.clone(),
            serial: self.serial,
            deleting: deleting.into_iter().collect(),
        };
        // Serialising digests and strings cannot fail.
        let json = Bytes::from(serde_json::to_vec(&note).unwrap_or_default());
        let begun = Instant::now();
        let mut unchanged = Unchanged::default();
        loop {
            let at = Instant::now();
            let key = note_key();
            let put = self.storage.put(&key, json.clone(), PutMode::CreateNew);
            let found = match put.await? {
                PutOutcome::Stored => Some(json.clone()),
                PutOutcome::AlreadyExists => read_note(self.storage).await?,
            };
            match found {
                None => {}
                // Also after a lost answer, when the store reports that the note existed before.
                Some(bytes) if bytes == json => {
                    self.announced = Some(at);
                    return Ok(Some(at));
                }
                Some(bytes) if is_dead(&mut unchanged, bytes.clone()) => {
                    tracing::info!(
                        "removing the list of blobs that an interrupted garbage collection was deleting"
                    );
                    self.storage.delete(&key).await?;
                }
                Some(_) if begun.elapsed() > PATIENCE => return Ok(None),
                Some(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Withdraws the announcement, when no deletion is running any more.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn clear(&mut self) -> Result<(), StorageError> {
        match self.announced.take() {
            // Nobody can have deleted it as a dead collector's note yet.
            Some(at) if at.elapsed() < DEAD / 2 => self.storage.delete(&note_key()).await.map(drop),
            _ => Ok(()),
        }
    }
}

/// Waits until the blob is not being deleted: it was spared or is gone, or the collector died. Call
/// it after writing the use mark of the blob.
///
/// # Errors
/// The store failed.
pub(crate) async fn wait_for(storage: &dyn Storage, digest: &Digest) -> Result<(), StorageError> {
    let mut unchanged = Unchanged::default();
    while let Some(bytes) = read_note(storage).await? {
        match serde_json::from_slice::<Note>(&bytes) {
            Ok(note) if !note.deleting.contains(digest) => break,
            Ok(_) => {
                tracing::debug!(%digest, "waiting for the garbage collection, which is deleting this blob");
            }
            // Of another version: the note may announce any blob.
            Err(error) => {
                tracing::warn!(%error, "cannot read which blobs the garbage collection is deleting")
            }
        }
        if is_dead(&mut unchanged, bytes) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn read_note(storage: &dyn Storage) -> Result<Option<Bytes>, StorageError> {
    match storage.get_bytes(&note_key(), MAX_NOTE).await {
        // It was deleted while it was read. The next note is whole.
        Err(StorageError::Truncated { .. }) => Ok(Some(Bytes::new())),
        other => other,
    }
}

/// Whether the collector that wrote the note is dead: the note is unchanged for longer than
/// [`DEAD`], and no two looks are [`GAP`] apart.
fn is_dead(unchanged: &mut Unchanged, note: Bytes) -> bool {
    const NANOSECOND: Duration = Duration::from_nanos(1);
    unchanged.is_stale(note, Instant::now(), DEAD + NANOSECOND, GAP - NANOSECOND)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::testing::world::memory;

    #[tokio::test(start_paused = true)]
    async fn only_a_blob_that_is_being_deleted_is_waited_for() {
        let storage = memory();
        let (doomed, other) = (Digest::of(b"doomed"), Digest::of(b"other"));
        wait_for(&*storage, &doomed).await.expect("no note");
        let mut collector = Announcer::new(&*storage, "one".to_owned());
        collector
            .announce([doomed])
            .await
            .expect("works")
            .expect("alone");
        wait_for(&*storage, &other).await.expect("not in the note");

        let waiting = wait_for(&*storage, &doomed);
        tokio::pin!(waiting);
        for _ in 0..20 {
            assert!(futures::poll!(&mut waiting).is_pending());
            advance(POLL).await;
        }
        collector.clear().await.expect("cleared");
        advance(POLL).await;
        assert!(futures::poll!(&mut waiting).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn the_note_of_a_dead_collector_counts_for_more_than_a_minute() {
        let storage = memory();
        let doomed = Digest::of(b"doomed");
        let mut dead = Announcer::new(&*storage, "dead".to_owned());
        dead.announce([doomed])
            .await
            .expect("works")
            .expect("alone");
        let begun = Instant::now();
        wait_for(&*storage, &doomed).await.expect("works");
        assert!(begun.elapsed() > DEAD && begun.elapsed() < DEAD + 2 * POLL);
        assert!(begun.elapsed() > VALID + SLOWEST_DELETION);

        let mut next = Announcer::new(&*storage, "next".to_owned());
        next.announce([doomed])
            .await
            .expect("works")
            .expect("alone");
        assert!(begun.elapsed() >= 2 * DEAD);
        // It continues, and must not delete the note of the other one.
        dead.clear().await.expect("works");
        assert!(read_note(&*storage).await.expect("works").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn two_collectors_never_announce_at_once() {
        let storage = memory();
        let mut one = Announcer::new(&*storage, "one".to_owned());
        let mut two = Announcer::new(&*storage, "two".to_owned());
        one.announce([]).await.expect("works").expect("alone");
        let second = two.announce([]);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        one.clear().await.expect("cleared");
        advance(POLL).await;
        assert!(futures::poll!(&mut second).is_ready());
    }
}
