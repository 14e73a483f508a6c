//! Bounds how many blobs are being sent at once, in total and to one client.
//!
//! A blob that is being sent needs an open file or a request to the store, and memory for what its
//! client has not taken yet. Requests beyond the limits wait. A place goes to the waiting client
//! that has the fewest downloads. If none becomes free, the client that has the most loses its
//! oldest download, so that slow clients cannot keep others out.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use futures::future::{AbortHandle, AbortRegistration, Abortable, ready};
use futures::{Stream, StreamExt, TryStreamExt};
use http::StatusCode;
use nixery_builder::ClientId;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::error::{ApiError, Code, RETRY_SECONDS};
use crate::stalls::ResponseHandle;

/// How long a request waits for a place. Clients such as containerd give up after 30 s.
const WAIT: Duration = Duration::from_secs(25);
/// How long a request waits before another client loses a download, and between two attempts.
/// Downloads that move fast end meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);
/// Requests of all clients that may wait. Each needs some kilobytes of memory.
const MAX_WAITING: usize = 4096;

/// The downloads of all clients.
#[derive(Debug)]
pub(crate) struct Downloads {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    all: usize,
    per_client: usize,
    max_waiting: usize,
    /// Identifies the next request.
    next: u64,
    /// Downloads of all clients.
    sending: usize,
    /// Requests that wait for a place, in the order of their arrival.
    waiting: BTreeMap<u64, Waiter>,
    /// The clients that have or wait for downloads. Those that are unknown count as one.
    clients: HashMap<Option<ClientId>, Client>,
}

#[derive(Debug, Default)]
struct Client {
    /// Downloads in the order of their requests.
    sending: BTreeMap<u64, Cancel>,
    waiting: usize,
}

#[derive(Debug)]
struct Waiter {
    client: Option<ClientId>,
    cancel: Cancel,
    /// Reports that the download may begin. It is dropped if the request is refused.
    begin: oneshot::Sender<()>,
}

/// Ends a download before its last byte.
#[derive(Debug)]
struct Cancel {
    body: AbortHandle,
    response: Option<ResponseHandle>,
}

/// The download ended early, as its client had more than others.
#[derive(Debug, thiserror::Error)]
#[error("the download was cancelled, as too many blobs are being sent and its client has most")]
pub(crate) struct DownloadCancelled;

impl Downloads {
    /// Returns downloads with a limit for all clients, and one for each.
    pub(crate) fn new(all: usize, per_client: usize) -> Self {
        let table = Mutex::new(Table {
            all,
            per_client,
            max_waiting: MAX_WAITING,
            next: 0,
            sending: 0,
            waiting: BTreeMap::new(),
            clients: HashMap::new(),
        });
        Self {
            table: Arc::new(table),
        }
    }

    /// Waits until one more blob may be sent to this client, if it is known.
    ///
    /// `response` ends the response of this request. Without it, a download that is cancelled ends
    /// when its client has taken what it was sent already.
    ///
    /// # Errors
    /// 429 if the client has too many downloads, 503 if there are too many in total.
    pub(crate) async fn begin(
        &self,
        client: Option<ClientId>,
        response: Option<ResponseHandle>,
    ) -> Result<Download, ApiError> {
        let (body, registration) = AbortHandle::new_pair();
        let (begin, mut begun) = oneshot::channel();
        let waiter = Waiter {
            client,
            cancel: Cancel { body, response },
            begin,
        };
        let download = Download {
            place: Place {
                id: self.table().add(waiter),
                client,
                table: Arc::clone(&self.table),
            },
            registration,
        };
        let end = Instant::now() + WAIT;
        loop {
            let pause = (Instant::now() + PATIENCE).min(end);
            match timeout_at(pause, &mut begun).await {
                Ok(Ok(())) => return Ok(download),
                Ok(Err(_)) => break,
                Err(_) if pause < end => self.table().reclaim(download.place.id),
                Err(_) => break,
            }
        }
        let refusal = self.table().refusal(client);
        Err(refusal)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// Adds a request and returns its ID. Its download begins at once if there is a place.
    fn add(&mut self, waiter: Waiter) -> u64 {
        let id = self.next;
        self.next += 1;
        let client = waiter.client;
        if self.waiting.len() < self.max_waiting || self.refuse_waiter(client) {
            self.clients.entry(client).or_default().waiting += 1;
            self.waiting.insert(id, waiter);
            self.fill();
        }
        id
    }

    /// Refuses the last request of the client that has most of those that wait, if the other client
    /// has fewer.
    fn refuse_waiter(&mut self, other: Option<ClientId>) -> bool {
        let waiting = |client: &Client| client.waiting;
        let own = self.clients.get(&other).map_or(0, waiting);
        let most = self.clients.iter().max_by_key(|(_, most)| most.waiting);
        let Some((most, _)) = most.filter(|(_, most)| most.waiting > own + 1) else {
            return false;
        };
        let of_most = |(_, waiter): &(&u64, &Waiter)| waiter.client == *most;
        let last = self.waiting.iter().rev().find(of_most).map(|(id, _)| *id);
        last.is_some_and(|id| self.take_waiter(id).is_some())
    }

    /// Begins downloads as long as there are places, first of the clients that have fewest.
    fn fill(&mut self) {
        while self.sending < self.all {
            let sending = |client| self.clients.get(client).map_or(0, |own| own.sending.len());
            let waiting = self.waiting.iter();
            let allowed = waiting
                .map(|(id, waiter)| (sending(&waiter.client), *id))
                .filter(|(sending, _)| *sending < self.per_client);
            let Some((_, id)) = allowed.min() else {
                return;
            };
            self.begin(id);
        }
    }

    /// Begins the download of a request that waits.
    fn begin(&mut self, id: u64) {
        if let Some(waiter) = self.take_waiter(id) {
            let client = self.clients.entry(waiter.client).or_default();
            client.sending.insert(id, waiter.cancel);
            self.sending += 1;
            // If the request is gone, its place is dropped and free again.
            let _ = waiter.begin.send(());
        }
    }

    /// Cancels a download for a request that waits, if another client has more downloads even then.
    fn reclaim(&mut self, id: u64) {
        let Some(client) = self.waiting.get(&id).map(|waiter| waiter.client) else {
            return;
        };
        let own = self.clients.get(&client).map_or(0, |own| own.sending.len());
        let clients = self.clients.iter_mut();
        let most = clients.max_by_key(|(_, most)| most.sending.len());
        // With as many downloads afterwards, two clients cannot take turns in cancelling.
        if let Some((most, of_most)) = most
            && of_most.sending.len() > own + 1
            && own < self.per_client
            && let Some((_, cancel)) = of_most.sending.pop_first()
        {
            self.sending -= 1;
            let client = most.map(tracing::field::display);
            tracing::debug!(
                client,
                "cancelled a download, as its client has most of them"
            );
            cancel.body.abort();
            if let Some(response) = cancel.response {
                response.end();
            }
            self.begin(id);
        }
    }

    /// Returns why the request of a client is refused.
    fn refusal(&self, client: Option<ClientId>) -> ApiError {
        let own = self.clients.get(&client).map_or(0, |own| own.sending.len());
        let (status, code, message) = if own >= self.per_client {
            (
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyRequests,
                "this server is sending too many blobs to your address at once. Fix: pull again later; if many clients share the address, ask the operator to raise NIXERY_MAX_DOWNLOADS, or to name the proxy before them in NIXERY_TRUSTED_PROXIES",
            )
        } else {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "this server is sending as many blobs as it can. Fix: pull again later",
            )
        };
        ApiError::new(status, code, message).retry_after(RETRY_SECONDS)
    }

    /// Removes a request that waits.
    fn take_waiter(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiting.remove(&id)?;
        if let Some(client) = self.clients.get_mut(&waiter.client) {
            client.waiting -= 1;
        }
        self.forget(waiter.client);
        Some(waiter)
    }

    /// Removes a request or its download, unless it was cancelled.
    fn remove(&mut self, id: u64, client: Option<ClientId>) {
        let Some(own) = self.clients.get_mut(&client) else {
            return;
        };
        if own.sending.remove(&id).is_some() {
            self.sending -= 1;
            self.forget(client);
            self.fill();
        } else {
            self.take_waiter(id);
        }
    }

    fn forget(&mut self, client: Option<ClientId>) {
        let unused = |own: &Client| own.sending.is_empty() && own.waiting == 0;
        if self.clients.get(&client).is_some_and(unused) {
            self.clients.remove(&client);
        }
    }
}

/// A request in the table, which waits or has a download. It is removed when this is dropped.
#[derive(Debug)]
struct Place {
    id: u64,
    client: Option<ClientId>,
    table: Arc<Mutex<Table>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.table).remove(self.id, self.client);
    }
}

/// A blob that may be sent.
#[derive(Debug)]
pub(crate) struct Download {
    place: Place,
    registration: AbortRegistration,
}

impl Download {
    /// Returns the body that sends these bytes. It is a download until the last of them have been
    /// sent, and fails if the download is cancelled.
    pub(crate) fn body<E>(
        self,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Body
    where
        E: Into<BoxError> + 'static,
    {
        let place = Arc::new(self.place);
        let handle = self.registration.handle();
        let bytes = bytes.map_err(Into::into).map_ok(move |bytes| {
            Bytes::from_owner(HeldBytes {
                bytes,
                _place: Arc::clone(&place),
            })
        });
        let failure = futures::stream::once(async move { handle.is_aborted() })
            .filter(|cancelled| ready(*cancelled))
            .map(|_| Err(BoxError::from(DownloadCancelled)));
        Body::from_stream(Abortable::new(bytes, self.registration).chain(failure))
    }
}

struct HeldBytes {
    bytes: Bytes,
    _place: Arc<Place>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    use super::*;
    use crate::limits::Limits;

    fn client(last: u8) -> Option<ClientId> {
        Some(ClientId::from_address([192, 0, 2, last].into()))
    }

    async fn begin(downloads: &Downloads, last: u8) -> Result<Download, ApiError> {
        downloads.begin(client(last), None).await
    }

    fn is_cancelled(download: &Download) -> bool {
        download.registration.handle().is_aborted()
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_never_has_all_downloads() {
        let downloads = Downloads::new(4, 2);
        let first = begin(&downloads, 1).await.unwrap();
        let _second = begin(&downloads, 1).await.unwrap();
        let _other = begin(&downloads, 2).await.unwrap();
        let error = begin(&downloads, 1).await.unwrap_err();
        assert_eq!(error.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(error.retry_after, Some(RETRY_SECONDS));
        drop(first);
        begin(&downloads, 1).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_downloads_in_total_are_the_servers_limit() {
        let downloads = Downloads::new(2, 2);
        let _one = begin(&downloads, 1).await.unwrap();
        let _unknown = downloads.begin(None, None).await.unwrap();
        let error = begin(&downloads, 2).await.unwrap_err();
        assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_download_that_ends_in_time() {
        let downloads = Downloads::new(1, 1);
        let first = begin(&downloads, 1).await.unwrap();
        let end = async {
            sleep(WAIT / 2).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(begin(&downloads, 1), end);
        second.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn clients_with_most_downloads_lose_their_oldest_to_one_with_fewer() {
        let downloads = Downloads::new(8, 4);
        let mut held = Vec::new();
        for number in 0..8 {
            held.push(begin(&downloads, number % 2).await.unwrap());
        }
        let asked = Instant::now();
        for _ in 0..2 {
            held.push(begin(&downloads, 3).await.unwrap());
        }
        assert!(asked.elapsed() <= 2 * PATIENCE);
        let cancelled: Vec<_> = held.iter().map(is_cancelled).collect();
        assert_eq!(cancelled[..2], [true, true]);
        assert!(cancelled[2..].iter().all(|cancelled| !cancelled));
        // All have nearly the same now, and nothing more is cancelled.
        held.drain(..2);
        let error = begin(&downloads, 3).await.unwrap_err();
        assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!held.iter().any(is_cancelled));
        assert_eq!(downloads.table().sending, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn three_hundred_requests_of_a_cluster_are_all_served() {
        let limits = Limits::for_descriptors(16 * 1024);
        let downloads = Downloads::new(limits.downloads, limits.downloads_per_client);
        let pull = async |number: u8| {
            let download = begin(&downloads, number).await.unwrap();
            sleep(WAIT / 6).await;
            assert!(!is_cancelled(&download));
        };
        let nodes = (0..300).map(|number| pull((number % 30) as u8));
        futures::future::join_all(nodes).await;
        // The same behind one address.
        futures::future::join_all((0..300).map(|_| pull(1))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn no_download_is_cancelled_while_others_end() {
        let downloads = Downloads::new(2, 2);
        let first = begin(&downloads, 1).await.unwrap();
        let second = begin(&downloads, 1).await.unwrap();
        let end = async {
            sleep(PATIENCE / 2).await;
            drop(first);
        };
        // The request of the client that has more downloads waits for a longer time.
        let (other, ()) = tokio::join!(
            async {
                tokio::select! {
                    _ = begin(&downloads, 1) => panic!("the other client has fewer"),
                    other = begin(&downloads, 2) => other,
                }
            },
            end
        );
        other.unwrap();
        assert!(!is_cancelled(&second));
    }

    #[tokio::test]
    async fn the_body_of_a_cancelled_download_fails() {
        let downloads = Downloads::new(1, 1);
        let download = begin(&downloads, 1).await.unwrap();
        let cancel = download.registration.handle();
        let parts = [Bytes::from_static(b"a"), Bytes::from_static(b"layer")].map(Ok::<_, BoxError>);
        let mut body = download.body(futures::stream::iter(parts));
        assert!(body.frame().await.unwrap().is_ok());
        cancel.abort();
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_are_bounded_and_no_client_has_all_places() {
        let downloads = Downloads::new(1, 1);
        downloads.table().max_waiting = 4;
        let _sending = begin(&downloads, 9).await.unwrap();
        let mut first: Vec<_> = (0..4).map(|_| Box::pin(begin(&downloads, 1))).collect();
        for wait in &mut first {
            assert!(futures::poll!(wait).is_pending());
        }
        let more = futures::poll!(Box::pin(begin(&downloads, 1)));
        assert!(more.is_ready(), "it is refused at once");
        let mut other = Box::pin(begin(&downloads, 2));
        assert!(futures::poll!(&mut other).is_pending());
        assert!(futures::poll!(&mut first[3]).is_ready());
        assert!(futures::poll!(&mut first[2]).is_pending());
        drop((first, other));
        assert!(downloads.table().waiting.is_empty());
    }

    #[tokio::test]
    async fn bytes_hold_their_download_until_they_are_gone() {
        let downloads = Downloads::new(1, 1);
        let download = downloads.begin(None, None).await.unwrap();
        let bytes = futures::stream::iter([Ok::<_, BoxError>(Bytes::from_static(b"a layer"))]);
        let mut body = download.body(bytes);
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!(downloads.table().sending, 1);
        assert_eq!(bytes, b"a layer"[..]);
        drop(bytes);
        assert_eq!(downloads.table().sending, 0);
        assert!(downloads.table().clients.is_empty());
    }
}
