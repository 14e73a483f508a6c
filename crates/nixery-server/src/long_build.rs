//! Lets clients wait for long builds.
//!
//! containerd gives up 30 s after a request. So a request for a manifest waits for less than that,
//! and is then redirected to itself with a count in its query; clients follow ten redirects. After
//! eight, the answer is 429 with the time to ask again. containerd does so for some minutes.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use axum::response::Response;
use http::{StatusCode, Uri};
use nixery_builder::{BuildHandle, BuildResult, ClientId, Phase};

use crate::error::{ApiError, Code, RETRY_SECONDS};
use crate::query;
use crate::response::redirect;

/// Limit of redirects of one request. Clients follow ten; one may be needed for the reason of a
/// failure, and one for a mirror.
pub const MAX_HOLDS: u32 = 8;
/// Name of the query parameter that counts the redirects.
pub(crate) const PARAMETER: &str = "hold";

/// Requests of all clients that may be held. Each needs some kilobytes of memory.
const MAX_HELD: usize = 8192;
/// Requests of one client that may be held: of a cluster behind one address, for example.
const MAX_HELD_PER_CLIENT: usize = 1024;

/// The requests that are held.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldRequests(Arc<Mutex<HeldCounts>>);

#[derive(Debug, Default)]
struct HeldCounts {
    total: usize,
    clients: HashMap<ClientId, usize>,
}

impl HeldRequests {
    /// Counts a request that begins to wait, until the returned value is dropped.
    ///
    /// # Errors
    /// Too many requests of the client or of all clients are held: 429 with the time to ask again.
    pub(crate) fn add(&self, client: ClientId) -> Result<HeldRequest, ApiError> {
        let mut counts = self.counts();
        let own = counts.clients.get(&client).copied().unwrap_or(0);
        // The default client stands for all that are unknown.
        let reason = if own >= MAX_HELD_PER_CLIENT && client != ClientId::default() {
            "too many requests of your address wait for images. Fix: pull again later; if many clients share the address, ask the operator to name the proxy before them in NIXERY_TRUSTED_PROXIES"
        } else if counts.total >= MAX_HELD {
            "too many requests wait for images. Fix: pull again later"
        } else {
            counts.total += 1;
            counts.clients.insert(client, own + 1);
            let all = self.clone();
            return Ok(HeldRequest { client, all });
        };
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests);
        Err(ApiError::new(status, code, reason).retry_after(RETRY_SECONDS))
    }

    fn counts(&self) -> MutexGuard<'_, HeldCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is held.
#[derive(Debug)]
pub(crate) struct HeldRequest {
    client: ClientId,
    all: HeldRequests,
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        counts.total -= 1;
        if let Some(own) = counts.clients.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.clients.remove(&self.client);
            }
        }
    }
}

/// Waits for a future, and counts its request as held unless it is ready at once, as for an image
/// in memory.
pub(crate) async fn count_if_it_waits<T>(
    future: impl Future<Output = T>,
    hold: impl Fn() -> Result<HeldRequest, ApiError>,
) -> Result<(T, Option<HeldRequest>), ApiError> {
    let mut future = pin!(future);
    if let Poll::Ready(output) = futures::poll!(&mut future) {
        return Ok((output, None));
    }
    let held = hold()?;
    Ok((future.await, Some(held)))
}

/// Waits for the build, and returns its result if it ends in time. A build continues without a
/// waiting client.
pub(crate) async fn wait_for_build(handle: &BuildHandle, limit: Duration) -> Option<BuildResult> {
    tokio::time::timeout(limit, handle.wait()).await.ok()
}

/// Redirects a request whose build has not ended to itself. `log` is where clients can read the log
/// of the build, if they can.
///
/// # Errors
/// The request was redirected [`MAX_HOLDS`] times: 429 with the time to ask again.
pub(crate) fn redirect_to_self(
    uri: &Uri,
    handle: &BuildHandle,
    log: Option<&str>,
) -> Result<Response, ApiError> {
    let count = count(uri.query());
    if count < MAX_HOLDS {
        let next = (count + 1).to_string();
        let query = query::rewrite(uri.query(), &[(PARAMETER, &next)], &[]);
        return Ok(redirect(uri.path(), &query));
    }
    let progress = handle.progress().borrow().clone();
    let doing = match progress.phase {
        Phase::Pack | Phase::Assemble | Phase::Store => format!(
            "{} of {} layers are stored",
            progress.layers_done, progress.layers_total
        ),
        phase => phase.describe().to_owned(),
    };
    let log = log
        .map(|log| format!(". Its log: {log}"))
        .unwrap_or_default();
    let message = format!(
        "the image is still being built ({doing}). Fix: pull it again in a few minutes; the build continues{log}"
    );
    let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests);
    Err(ApiError::new(status, code, message).retry_after(RETRY_SECONDS))
}

/// Returns how often the request was redirected already; an invalid count is 0.
fn count(query: Option<&str>) -> u32 {
    query::value(query, PARAMETER)
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn held_requests_are_bounded_for_each_client_and_in_total() {
        let held = HeldRequests::default();
        let client = |number: u32| ClientId::from_address(number.to_be_bytes().into());
        let mut all: Vec<_> = Vec::new();
        for number in 0..8 {
            let before = all.len();
            all.extend(std::iter::from_fn(|| held.add(client(number)).ok()));
            assert_eq!(all.len() - before, MAX_HELD_PER_CLIENT);
        }
        let error = held.add(client(9)).unwrap_err();
        assert_eq!(error.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(error.retry_after, Some(RETRY_SECONDS));
        all.pop();
        all.extend([held.add(ClientId::default()).unwrap()]);
        drop(all);
        let counts = held.counts();
        assert!(counts.total == 0 && counts.clients.is_empty());
    }

    #[rstest]
    #[case(None, 0)]
    #[case(Some("hold=8"), 8)]
    #[case(Some("hold=many"), 0)]
    #[case(Some("hold=-1"), 0)]
    #[case(Some("hold=4000000000"), 4_000_000_000)]
    fn the_count_is_read_leniently(#[case] query: Option<&str>, #[case] expected: u32) {
        assert_eq!(count(query), expected);
    }
}
