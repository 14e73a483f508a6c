//! [`Call`]: one operation on one object, and what became of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use http::StatusCode;
use opendal::{ErrorKind, HttpTransporter, OperationContext, Operator};

use super::errors::{Class, Diagnosis, diagnose};
use super::fault::{End, Fault, Met, Seen};
use super::transport::{Media, Transport};
use super::{Remote, RemoteLimits};
use crate::{KeyKind, Operation, StorageError};

/// One operation on one object.
pub(super) struct Call {
    remote: Remote,
    operation: Operation,
    target: String,
    /// Sends requests that this call watches.
    pub(super) operator: Operator,
    pub(super) seen: Arc<Seen>,
}

/// How patient a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// As the limits say.
    Full,
    /// For questions that are asked again soon, such as those of readiness probes.
    Little,
}

impl Remote {
    pub(super) fn call(&self, operation: Operation, target: impl fmt::Display) -> Call {
        self.call_with(operation, target, Patience::Full, Media::default())
    }

    pub(super) fn call_with(
        &self,
        operation: Operation,
        target: impl fmt::Display,
        patience: Patience,
        media: Media,
    ) -> Call {
        let limits = match patience {
            Patience::Full => self.shared.limits.clone(),
            Patience::Little => RemoteLimits {
                attempts: self.shared.limits.attempts.min(2),
                call_timeout: self.shared.limits.call_timeout.min(Duration::from_secs(2)),
                stall_timeout: self.shared.limits.stall_timeout.min(Duration::from_secs(2)),
                ..self.shared.limits.clone()
            },
        };
        let operator = match operation {
            Operation::Sign => self.shared.signer.as_ref(),
            _ => None,
        };
        let operator = operator.unwrap_or(&self.shared.operator).clone();
        let seen = Arc::new(Seen::default());
        let transport = HttpTransporter::new(Transport {
            client: self.shared.client.clone(),
            limits,
            seen: Arc::clone(&seen),
            media,
        });
        let context = OperationContext::new().with_http_transport(transport);
        Call {
            remote: self.clone(),
            operation,
            target: target.to_string(),
            operator: operator.with_context(context),
            seen,
        }
    }
}

impl Call {
    /// Sorts a failure into its variant.
    pub(super) fn error(&self, error: &opendal::Error) -> StorageError {
        let met = match self.seen.take() {
            Some(Met {
                end: End::Unanswered(Fault::Spool(source)),
                ..
            }) => return StorageError::spool(&self.target, std::path::Path::new(""), source),
            met => met,
        };
        let no_credentials = self.seen.why_no_credentials();
        let bucket = &self.remote.shared.bucket;
        let diagnosis = diagnose(error, met.as_ref(), no_credentials, bucket);
        self.failure(diagnosis)
    }

    /// A failure that opendal does not know of.
    pub(super) fn broken(&self, why: impl Into<String>) -> StorageError {
        self.failure(Diagnosis {
            class: Class::Failed { retryable: true },
            words: why.into(),
        })
    }

    fn failure(&self, diagnosis: Diagnosis) -> StorageError {
        let backend = self.remote.shared.backend;
        let (operation, target) = (self.operation, self.target.clone());
        let Diagnosis { class, words } = diagnosis;
        let source = words.into();
        match class {
            Class::Denied => StorageError::Denied {
                backend,
                operation,
                target,
                source,
            },
            Class::NoSpace => StorageError::NoSpace {
                backend,
                operation,
                target,
                source,
            },
            Class::Failed { retryable } => StorageError::Failed {
                backend,
                operation,
                target,
                retryable,
                source,
            },
        }
    }

    /// Whether the failure says that the object does not exist, in a bucket that does.
    ///
    /// # Errors
    /// When there is no such bucket.
    pub(super) async fn is_missing(&self, error: &opendal::Error) -> Result<bool, StorageError> {
        if error.kind() != ErrorKind::NotFound || self.seen.status() != Some(StatusCode::NOT_FOUND)
        {
            return Ok(false);
        }
        if self
            .seen
            .answer()
            .is_some_and(|answer| answer.has_code(&["NoSuchKey"]))
        {
            self.remote.saw_bucket();
        }
        // The answer to HEAD has no body that could tell what is missing.
        if !self.remote.has_seen_bucket() {
            let probe = self.remote.call(self.operation, &self.target);
            probe
                .find_bucket()
                .await
                .map_err(|error| probe.error(&error))?;
            self.remote.saw_bucket();
        }
        Ok(true)
    }

    /// Asks for something that only an existing bucket can answer.
    pub(super) async fn find_bucket(&self) -> opendal::Result<()> {
        let folder = format!("{}/", KeyKind::Lease.folder());
        let mut listing = self.operator.lister_with(&folder).limit(1).await?;
        listing.try_next().await.map(drop)
    }
}
