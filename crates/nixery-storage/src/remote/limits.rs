//! [`RemoteLimits`]: how long a remote store is waited for, and what an upload may take.

use std::time::Duration;

/// The least size of a part that S3 accepts, but for the last one.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const MIN_PART: u64 = 5 << 20;

/// Retries, time-outs and upload sizes of a remote store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteLimits {
    /// How often one request is sent at most, 0 counting as 1. Waits between attempts grow from
    /// 0.2 s to 5 s: 12 attempts outlast a store that is away for 30 s.
    pub attempts: u32,
    /// How long an answer may take to begin, once the request is sent.
    pub call_timeout: Duration,
    /// How long a body that is sent or received may stand still.
    pub stall_timeout: Duration,
    /// Bytes above which a file is uploaded to S3 in parts, and bytes of a part; at least 5 MiB.
    pub part_size: u64,
    /// Parts of one file that are sent at once; 0 counts as 1. Each is held in memory.
    pub parts_at_once: usize,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        Self {
            // SeaweedFS, killed and started again after 10 s, takes 20 s more to come back.
            attempts: 12,
            call_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(20),
            part_size: 8 << 20,
            parts_at_once: 4,
        }
    }
}

impl RemoteLimits {
    /// With the promised meaning of zeros.
    pub(super) fn sane(self) -> Self {
        Self {
            attempts: self.attempts.max(1),
            part_size: self.part_size.max(MIN_PART),
            parts_at_once: self.parts_at_once.max(1),
            ..self
        }
    }
}
