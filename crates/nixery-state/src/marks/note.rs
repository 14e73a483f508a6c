//! The collector's note: which blobs are being deleted right now.
//!
//! Who wants to rely on an old blob writes its use mark first and reads the note then; the
//! collector writes the note first and looks for marks then. So one of the two sees the other,
//! whatever the order: either the collector spares the blob, or the other waits until it is gone.
//!
//! There is one note, which is created and never replaced: a collector that was taken for dead and
//! goes on all the same cannot announce anything while another deletes.

use std::collections::HashSet;
use std::time::Duration;

use crate::uses::USES;
use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::{Key, PutMode, PutOutcome, Storage, StorageError};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::unchanged::Unchanged;

/// The note is kept among the use marks, of no blob: whoever marks must be able to read it. Leases may
/// fail, and be done without.
const NOTE: &[u8] = b"gc note";
/// Most bytes of a note; a batch has about 40 kB.
const MAX_NOTE: u64 = 4 * 1024 * 1024;
/// Once a note is so old no deletion it announces is begun any more.
pub(crate) const VALID: Duration = Duration::from_secs(20);
/// A deletion that takes longer ends the collection.
pub(crate) const SLOWEST_DELETION: Duration = Duration::from_secs(30);
/// A note that has not changed for so long is of a collector that died: longer than
/// [`VALID`] and [`SLOWEST_DELETION`] together.
const DEAD: Duration = Duration::from_secs(60);
/// Whoever has not looked for so long counts from anew: it may have been stopped itself.
const BLIND: Duration = Duration::from_secs(10);
/// How long a collector waits for another one's notes.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often the note is read while a blob is waited for.
const POLL: Duration = Duration::from_millis(500);

#[derive(Serialize, Deserialize)]
struct Note {
    /// For people who look into the store.
    collector: String,
    /// Tells one note from the next.
    serial: u64,
    deleting: HashSet<Digest>,
}

fn key() -> Key {
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
    /// `collector` is a name no other collector has.
    pub(crate) fn new(storage: &'a dyn Storage, collector: String) -> Self {
        Self {
            storage,
            collector,
            serial: 0,
            announced: None,
        }
    }

    /// From the time it returns until [`VALID`] later these blobs may be deleted. `None` where
    /// another collector deletes all the time.
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
        // Digests and words: serialising them cannot fail.
        let json = Bytes::from(serde_json::to_vec(&note).unwrap_or_default());
        let begun = Instant::now();
        let mut seen = Unchanged::default();
        loop {
            let at = Instant::now();
            let (key, json) = (key(), json.clone());
            let put = self.storage.put(&key, json.clone(), PutMode::CreateNew);
            if put.await? == PutOutcome::Stored {
                self.announced = Some(at);
                return Ok(Some(at));
            }
            match read(self.storage).await? {
                None => continue,
                // Ours, though the store said otherwise: its answer was lost and it was asked twice.
                Some(bytes) if bytes == json => {
                    self.announced = Some(at);
                    return Ok(Some(at));
                }
                Some(bytes) if is_dead(&mut seen, bytes.clone()) => {
                    tracing::info!("deleting the note of a collector that is gone");
                    self.storage.delete(&key).await?;
                    continue;
                }
                Some(_) if begun.elapsed() > PATIENCE => return Ok(None),
                Some(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Nothing is being deleted any more.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn clear(&mut self) -> Result<(), StorageError> {
        match self.announced.take() {
            // Nobody else can have taken it for dead yet.
            Some(at) if at.elapsed() < DEAD / 2 => self.storage.delete(&key()).await.map(drop),
            _ => Ok(()),
        }
    }
}

/// Waits until the blob is not being deleted: it was spared or is gone, or the collector died.
/// To be called after the blob's use mark is written.
///
/// # Errors
/// The store failed.
pub(crate) async fn wait_for(storage: &dyn Storage, digest: &Digest) -> Result<(), StorageError> {
    let mut seen = Unchanged::default();
    while let Some(bytes) = read(storage).await? {
        match serde_json::from_slice::<Note>(&bytes) {
            Ok(note) if !note.deleting.contains(digest) => break,
            Ok(_) => tracing::debug!(%digest, "the collector is deleting this blob: waiting"),
            // Of another version: what it deletes is not known, so it is waited for.
            Err(error) => tracing::warn!(%error, "the collector's note cannot be read"),
        }
        if is_dead(&mut seen, bytes) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn read(storage: &dyn Storage) -> Result<Option<Bytes>, StorageError> {
    match storage.get_bytes(&key(), MAX_NOTE).await {
        // It was deleted while it was read. Whatever is there next is whole.
        Err(StorageError::Truncated { .. }) => Ok(Some(Bytes::new())),
        other => other,
    }
}

/// Whether the collector that wrote the note is dead.
fn is_dead(seen: &mut Unchanged, note: Bytes) -> bool {
    seen.is_stale(note, Instant::now(), DEAD, BLIND)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::testing::world::memory;

    #[tokio::test(start_paused = true)]
    async fn a_blob_that_is_being_deleted_is_waited_for_and_no_other() {
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
    async fn the_note_of_a_dead_collector_counts_for_a_minute() {
        let storage = memory();
        let doomed = Digest::of(b"doomed");
        let mut dead = Announcer::new(&*storage, "dead".to_owned());
        dead.announce([doomed])
            .await
            .expect("works")
            .expect("alone");
        let begun = Instant::now();
        wait_for(&*storage, &doomed).await.expect("works");
        assert!((DEAD..DEAD + 2 * POLL).contains(&begun.elapsed()));
        assert!(begun.elapsed() > VALID + SLOWEST_DELETION);

        let mut next = Announcer::new(&*storage, "next".to_owned());
        next.announce([doomed])
            .await
            .expect("works")
            .expect("alone");
        assert!(begun.elapsed() >= 2 * DEAD);
        // It wakes up, and must not take the other's note away.
        dead.clear().await.expect("works");
        assert!(read(&*storage).await.expect("works").is_some());
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
