//! Bounds how many blobs are being sent at once, in total and to one client.
//!
//! A blob that is being sent needs an open file or a request to the store, and memory for what its
//! client has not taken yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use nixery_builder::ClientId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::{ApiError, Code, RETRY_SECONDS};

/// How long a request waits until other downloads end.
const WAIT: Duration = Duration::from_secs(15);
/// Requests of one client that may wait, for each download that it may have.
const WAITING_PER_DOWNLOAD: usize = 4;
/// Clients that are remembered before those without a download are forgotten.
const REMEMBERED: usize = 1024;

/// The downloads of all clients.
#[derive(Debug)]
pub(crate) struct Downloads {
    slots: Arc<Semaphore>,
    per_client: usize,
    clients: Mutex<HashMap<ClientId, Arc<Client>>>,
}

/// The downloads of one client.
#[derive(Debug)]
struct Client {
    slots: Arc<Semaphore>,
    /// Places for requests that wait for a slot.
    waiting: Semaphore,
}

/// A blob that is being sent, until this is dropped.
#[derive(Debug)]
pub(crate) struct Download {
    _slot: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

impl Downloads {
    /// Returns downloads with a limit for all clients, and one for each.
    pub(crate) fn new(all: usize, per_client: usize) -> Self {
        let most = Semaphore::MAX_PERMITS / WAITING_PER_DOWNLOAD;
        Self {
            slots: Arc::new(Semaphore::new(all.min(most))),
            per_client: per_client.min(most),
            clients: Mutex::default(),
        }
    }

    /// Waits until one more blob may be sent to this client, if it is known.
    ///
    /// # Errors
    /// 429 if the client has too many downloads, 503 if there are too many in total.
    pub(crate) async fn begin(&self, client: Option<ClientId>) -> Result<Download, ApiError> {
        let deadline = Instant::now() + WAIT;
        let own = match client {
            Some(client) => Some(self.client(client).begin(deadline).await?),
            None => None,
        };
        match timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => Ok(Download {
                _slot: slot,
                _own: own,
            }),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => {
                let message =
                    "this server is sending as many blobs as it can. Fix: pull again later";
                let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable);
                Err(ApiError::new(status, code, message).retry_after(RETRY_SECONDS))
            }
        }
    }

    fn client(&self, id: ClientId) -> Arc<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= REMEMBERED {
            clients.retain(|_, client| {
                Arc::strong_count(client) > 1 || client.slots.available_permits() < self.per_client
            });
        }
        let client = clients.entry(id).or_insert_with(|| {
            Arc::new(Client {
                slots: Arc::new(Semaphore::new(self.per_client)),
                waiting: Semaphore::new(self.per_client * WAITING_PER_DOWNLOAD),
            })
        });
        Arc::clone(client)
    }
}

impl Client {
    /// Waits until the client may have one more download.
    async fn begin(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, ApiError> {
        let slots = || Arc::clone(&self.slots);
        if let Ok(slot) = slots().try_acquire_owned() {
            return Ok(slot);
        }
        if let Ok(_waiting) = self.waiting.try_acquire()
            && let Ok(Ok(slot)) = timeout_at(deadline, slots().acquire_owned()).await
        {
            return Ok(slot);
        }
        let message = "this server is sending too many blobs to your address at once. Fix: pull again later; if many clients share the address, ask the operator to raise NIXERY_MAX_CONNECTIONS_PER_CLIENT, which is the limit of downloads too";
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests);
        Err(ApiError::new(status, code, message).retry_after(RETRY_SECONDS))
    }
}

impl Download {
    /// Returns bytes that hold the download until they have been sent.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(HeldBytes {
            bytes,
            _download: Arc::clone(self),
        })
    }
}

struct HeldBytes {
    bytes: Bytes,
    _download: Arc<Download>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures::future::FutureExt;

    use super::*;

    fn client(last: u8) -> Option<ClientId> {
        Some(ClientId::from_address([192, 0, 2, last].into()))
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_never_has_all_downloads() {
        let downloads = Downloads::new(4, 2);
        let first = downloads.begin(client(1)).await.unwrap();
        let _second = downloads.begin(client(1)).await.unwrap();
        let _other = downloads.begin(client(2)).await.unwrap();
        let error = downloads.begin(client(1)).await.unwrap_err();
        assert_eq!(error.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(error.retry_after, Some(RETRY_SECONDS));
        drop(first);
        downloads.begin(client(1)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_downloads_in_total_are_the_servers_limit() {
        let downloads = Downloads::new(2, 2);
        let _one = downloads.begin(client(1)).await.unwrap();
        let _unknown = downloads.begin(None).await.unwrap();
        let error = downloads.begin(client(2)).await.unwrap_err();
        assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_download_that_ends_in_time() {
        let downloads = Downloads::new(1, 1);
        let first = downloads.begin(client(1)).await.unwrap();
        let end = async {
            tokio::time::sleep(WAIT / 2).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(downloads.begin(client(1)), end);
        second.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn few_requests_of_a_client_wait() {
        let downloads = Downloads::new(1, 1);
        let _first = downloads.begin(client(1)).await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_PER_DOWNLOAD)
            .map(|_| Box::pin(downloads.begin(client(1))))
            .collect();
        assert!(waiting.iter_mut().all(|wait| wait.now_or_never().is_none()));
        let refused = downloads.begin(client(1)).now_or_never();
        assert!(refused.expect("it does not wait").is_err());
    }

    #[tokio::test]
    async fn bytes_hold_their_download_until_they_are_gone() {
        let downloads = Downloads::new(1, 1);
        let download = Arc::new(downloads.begin(None).await.unwrap());
        let bytes = download.hold(Bytes::from_static(b"a layer"));
        drop(download);
        assert_eq!(downloads.slots.available_permits(), 0);
        assert_eq!(bytes, b"a layer"[..]);
        drop(bytes);
        assert_eq!(downloads.slots.available_permits(), 1);
    }

    #[tokio::test]
    async fn clients_without_downloads_are_forgotten() {
        let downloads = Downloads::new(usize::MAX, 1);
        let _kept = downloads.begin(client(1)).await.unwrap();
        for number in 0..3 * REMEMBERED as u32 {
            let client = ClientId::from_address(number.to_be_bytes().into());
            drop(downloads.begin(Some(client)).await.unwrap());
        }
        let clients = downloads.clients.lock().unwrap();
        assert!(clients.len() <= REMEMBERED, "{}", clients.len());
        assert!(clients.contains_key(&client(1).unwrap()));
    }
}
