//! What a lease object says.

use std::time::Duration;

use bytes::Bytes;
use nixery_storage::{Key, Storage, StorageError};
use serde::{Deserialize, Serialize};

use super::process::{self, Process};
use crate::versioned;

/// Version of the format. Of another version only changes are seen, which is enough to wait.
const VERSION: u32 = 1;
/// Most bytes of a lease, which has a few hundred.
const MAX_BYTES: u64 = 64 * 1024;
/// Most that a holder may claim as its lease time: nobody shall wait longer for a dead one.
const LONGEST: Duration = Duration::from_secs(3600);

/// A lease, as JSON in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Content {
    /// For people who look into the store.
    task: String,
    /// For people: the holder's host and process.
    holder: String,
    /// Names this acquisition: whoever finds its own token has the lease.
    pub(super) token: String,
    /// The lease time the holder renews by.
    milliseconds: u64,
    pub(super) renewals: u64,
    /// The holder's process, where its machine can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
}

impl Content {
    pub(super) fn new(task: &str, ttl: Duration, token: String) -> Self {
        Self {
            task: task.to_owned(),
            holder: process::holder(),
            token,
            milliseconds: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            renewals: 0,
            process: Process::current().cloned(),
        }
    }

    /// `None` for what another version, or somebody else, wrote.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        versioned::from_bytes(VERSION, bytes).ok()
    }

    pub(super) fn bytes(&self) -> Bytes {
        versioned::to_bytes(VERSION, self).into()
    }

    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    pub(super) fn lease_time(&self) -> Duration {
        Duration::from_millis(self.milliseconds).min(LONGEST)
    }

    /// Whether the holder's process was on this machine and is no more.
    pub(super) fn holder_is_dead(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_dead)
    }
}

/// The bytes of a lease, or `None` where nobody has it.
pub(super) async fn read(storage: &dyn Storage, key: &Key) -> Result<Option<Bytes>, StorageError> {
    storage.get_bytes(key, MAX_BYTES).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers of other versions read it.
    #[test]
    fn the_format_is_pinned() {
        let mut content = Content::new("image x", Duration::from_secs(15), "t0".into());
        content.holder = "host, process 7".into();
        content.process = None;
        let json = r#"{"version":1,"task":"image x","holder":"host, process 7","token":"t0","milliseconds":15000,"renewals":0}"#;
        assert_eq!(content.bytes(), json);
        assert_eq!(Content::parse(json.as_bytes()), Some(content));
    }

    #[test]
    fn what_is_not_of_this_version_is_opaque() {
        for other in ["", "{}", r#"{"version":2}"#, "[1]"] {
            assert_eq!(Content::parse(other.as_bytes()), None);
        }
        let content = Content::new("x", Duration::MAX, "t".into());
        assert_eq!(content.lease_time(), LONGEST);
        let newer = versioned::to_bytes(2, &content);
        assert_eq!(Content::parse(&newer), None);
    }
}
