//! A blob's bytes, hashed while they are sent for the first time.

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, TryStreamExt};
use nixery_manifest::{Digest, Digester};
use nixery_storage::StorageError;

/// Bytes hashed before other tasks get their turn: a tenth of a millisecond's work.
const SLICE: usize = 64 * 1024;

/// What the end of a body showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// So many bytes, and they are what the digest says.
    Sound(u64),
    /// They are something else.
    Damaged,
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes are not what the digest says: the last ones are not sent.
    #[error("the stored blob is damaged: it is not what its digest says")]
    Damaged,
}

/// Passes the bytes on, but holds the last ones back until the digest of all of them is right.
///
/// `tell` hears the verdict before the last bytes are passed on, and nothing if the body fails or
/// is dropped before its end.
pub(crate) fn verified(
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    expected: Digest,
    tell: impl FnOnce(Verdict) + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    let start = Verified {
        body,
        rest: Bytes::new(),
        held: Bytes::new(),
        digester: Digester::new(),
        expected,
        tell: Some(tell),
    };
    stream::try_unfold(start, Verified::next)
}

struct Verified<F> {
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    /// Read, not hashed.
    rest: Bytes,
    /// Hashed, not passed on.
    held: Bytes,
    digester: Digester,
    expected: Digest,
    /// Gone at the end.
    tell: Option<F>,
}

impl<F: FnOnce(Verdict)> Verified<F> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BodyError> {
        if self.tell.is_none() {
            return Ok(None);
        }
        loop {
            while self.rest.is_empty() {
                let Some(chunk) = self.body.try_next().await? else {
                    return self.end();
                };
                self.rest = chunk;
            }
            let slice = self.rest.split_to(self.rest.len().min(SLICE));
            self.digester.update(&slice);
            tokio::task::yield_now().await;
            let passed = std::mem::replace(&mut self.held, slice);
            if !passed.is_empty() {
                return Ok(Some((passed, self)));
            }
        }
    }

    fn end(mut self) -> Result<Option<(Bytes, Self)>, BodyError> {
        let digester = std::mem::take(&mut self.digester);
        let size = digester.bytes();
        let sound = digester.finish() == self.expected;
        if let Some(tell) = self.tell.take() {
            tell(if sound {
                Verdict::Sound(size)
            } else {
                Verdict::Damaged
            });
        }
        if !sound {
            return Err(BodyError::Damaged);
        }
        let last = std::mem::take(&mut self.held);
        Ok((!last.is_empty()).then_some((last, self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    /// What came out, whether it ended well, and the verdict.
    fn run(
        chunks: Vec<Result<Bytes, StorageError>>,
        digest: Digest,
    ) -> (Vec<u8>, Option<BodyError>, Option<Verdict>) {
        let verdict = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&verdict);
        let tell = move |told| *heard.lock().unwrap() = Some(told);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (bytes, error) = runtime.block_on(async {
            let mut body = Box::pin(verified(stream::iter(chunks).boxed(), digest, tell));
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                match chunk {
                    Ok(chunk) => {
                        assert!(!chunk.is_empty() && chunk.len() <= SLICE);
                        bytes.extend_from_slice(&chunk);
                    }
                    Err(error) => return (bytes, Some(error)),
                }
            }
            (bytes, None)
        });
        let verdict = *verdict.lock().unwrap();
        (bytes, error, verdict)
    }

    fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Result<Bytes, StorageError>> {
        let mut rest = Bytes::copy_from_slice(bytes);
        let mut chunks: Vec<_> = sizes
            .iter()
            .map(|size| Ok(rest.split_to((*size).min(rest.len()))))
            .collect();
        chunks.push(Ok(rest));
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sound_bytes_pass_however_they_are_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..3 * SLICE),
            sizes in proptest::collection::vec(0..2 * SLICE, 0..5),
        ) {
            let (sent, error, verdict) = run(cut(&bytes, &sizes), Digest::of(&bytes));
            prop_assert!(error.is_none());
            prop_assert_eq!(verdict, Some(Verdict::Sound(bytes.len() as u64)));
            prop_assert_eq!(sent, bytes);
        }

        #[test]
        fn of_damaged_bytes_the_last_are_held_back(
            bytes in proptest::collection::vec(any::<u8>(), 1..3 * SLICE),
            sizes in proptest::collection::vec(0..2 * SLICE, 0..5),
        ) {
            let (sent, error, verdict) = run(cut(&bytes, &sizes), Digest::of(b"other"));
            prop_assert!(matches!(error, Some(BodyError::Damaged)));
            prop_assert_eq!(verdict, Some(Verdict::Damaged));
            prop_assert!(sent.len() < bytes.len());
            prop_assert!(bytes.starts_with(&sent));
        }
    }

    #[test]
    fn a_body_that_fails_gets_no_verdict() {
        let truncated = StorageError::Truncated {
            backend: "memory",
            target: "layers/x".into(),
            expected: 9,
            actual: 4,
        };
        let chunks = vec![Ok(Bytes::from_static(b"half")), Err(truncated)];
        let (sent, error, verdict) = run(chunks, Digest::of(b"half"));
        assert!(sent.is_empty());
        assert!(matches!(error, Some(BodyError::Storage(_))));
        assert_eq!(verdict, None);
    }
}
