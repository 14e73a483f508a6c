//! Watching a lease that somebody else has.

use std::sync::Arc;
use std::time::Duration;

use nixery_storage::{Key, Storage, StorageError};
use tokio::time::Instant;

use super::content::{self, Content};
use crate::unchanged::Unchanged;

/// Whoever looks at least so often never counts as blind, however short the holder's lease time is:
/// well above the pauses between two looks.
const ATTENTIVE: Duration = Duration::from_secs(2);

/// Looks at a lease again and again, and tells by its own clock when it was left behind.
#[derive(Debug)]
pub struct Watch {
    storage: Arc<dyn Storage>,
    key: Key,
    ttl: Duration,
    seen: Unchanged,
}

/// How a lease stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Sight {
    /// Nobody has it.
    Free,
    /// Somebody has it.
    Held {
        /// For logs: the holder's host and process.
        holder: String,
        /// Which acquisition it is; empty where the format is unknown.
        token: String,
    },
    /// Somebody had it and is gone.
    Abandoned,
}

impl Watch {
    pub(super) fn new(storage: Arc<dyn Storage>, key: Key, ttl: Duration) -> Self {
        Self {
            storage,
            key,
            ttl,
            seen: Unchanged::default(),
        }
    }

    /// How the lease stands now.
    ///
    /// # Errors
    /// The store failed.
    pub async fn look(&mut self) -> Result<Sight, StorageError> {
        let Some(bytes) = content::read(&*self.storage, &self.key).await? else {
            self.seen = Unchanged::default();
            return Ok(Sight::Free);
        };
        let content = Content::parse(&bytes);
        let lease_time = content.as_ref().map_or(self.ttl, Content::lease_time);
        let attentive = ATTENTIVE.max(lease_time / 2);
        let stale = self
            .seen
            .is_stale(bytes, Instant::now(), lease_time, attentive);
        Ok(match content {
            Some(content) if stale || content.holder_is_dead() => {
                self.seen.mark_stale();
                Sight::Abandoned
            }
            None if stale => Sight::Abandoned,
            Some(content) => Sight::Held {
                holder: content.holder().to_owned(),
                token: content.token,
            },
            None => Sight::Held {
                holder: "a server of another version".to_owned(),
                token: String::new(),
            },
        })
    }
}
