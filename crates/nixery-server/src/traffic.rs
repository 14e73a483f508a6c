//! Records pulls, so that an operator can replay them: `nixery lab replay --from-server`.
//!
//! A pull is a GET for a manifest that was answered with it. Recording costs two hashes and a short
//! lock. [`record_forever`] stores what was recorded, and no pull waits for the store.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::ConnectInfo;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{Method, StatusCode};
use nixery_core::ImageName;
use nixery_lab::traffic::{Fingerprint, MOST_IN_BATCH, Pull, is_plausible, store_pulls};
use nixery_manifest::Digest;
use nixery_storage::{Storage, error_chain};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use quick_cache::sync::Cache;
use tokio::sync::Notify;

use crate::config::Salt;
use crate::host::forwarded;
use crate::metrics::{counters, register};

/// Time after which recorded pulls are stored: a server that is killed loses no more than these.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Limit of manifests whose image is remembered.
const MAX_KNOWN_MANIFESTS: usize = 40_000;

/// The metrics of recording pulls.
#[derive(Debug)]
struct TrafficMetrics {
    stored: Counter,
    /// Pulls that were dropped because the buffer was full or the clock was not set.
    dropped: Counter,
    /// Pulls of an unknown image.
    unknown: Counter,
    failed_batches: Counter,
}

impl TrafficMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let [stored, dropped, unknown] = counters(
            registry,
            "nixery_traffic_pulls",
            "Pulls that were recorded and stored, dropped because the buffer was full or the clock was not set, or of an unknown image",
            "result",
            ["stored", "dropped", "unknown"],
        );
        let help = "Times that recorded pulls could not be stored";
        Self {
            stored,
            dropped,
            unknown,
            failed_batches: register(registry, "nixery_traffic_store_failures", help),
        }
    }
}

/// Records pulls in memory, bounded, until they are stored.
#[derive(Debug)]
pub struct Recorder {
    salt: Salt,
    /// The images of the manifests that were requested recently.
    images: Cache<Digest, Digest>,
    buffer: Mutex<Buffer>,
    full: Notify,
    /// The batch that is being stored. It does not change until then: a write that is reported as
    /// failed may have succeeded, and equal bytes get the same name.
    storing: tokio::sync::Mutex<Vec<Pull>>,
    metrics: TrafficMetrics,
}

#[derive(Debug, Default)]
struct Buffer {
    pulls: Vec<Pull>,
    /// Pulls that were not recorded since the last log line about them.
    dropped: u64,
}

impl Recorder {
    /// Returns a recorder without pulls, whose metrics are in the registry.
    pub(crate) fn new(salt: Salt, registry: &mut Registry) -> Self {
        Self {
            salt,
            images: Cache::new(MAX_KNOWN_MANIFESTS),
            buffer: Mutex::default(),
            full: Notify::new(),
            storing: tokio::sync::Mutex::default(),
            metrics: TrafficMetrics::registered(registry),
        }
    }

    /// Records the answer to a request for a manifest. `image` is the image's key. A request by
    /// digest lacks it, but mostly follows one by tag.
    pub(crate) fn answered(
        &self,
        request: &Parts,
        status: StatusCode,
        name: &ImageName,
        manifest: &Digest,
        image: Option<Digest>,
    ) {
        if let Some(image) = image {
            self.images.insert(*manifest, image);
        }
        // HEAD, and a client that has the manifest, fetch nothing.
        if request.method != Method::GET || status != StatusCode::OK {
            return;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = time.as_ref().map_or(0, Duration::as_secs);
        if !is_plausible(time) {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                tracing::warn!(
                    time,
                    "pulls are not recorded, because this machine's clock is not set"
                );
            });
            self.metrics.dropped.inc();
            return;
        }
        let (client, name) = (self.client(request), self.name(name));
        let mut buffer = self.buffer();
        let Some(image) = image.or_else(|| self.images.get(manifest)) else {
            self.metrics.unknown.inc();
            return;
        };
        if buffer.pulls.len() >= MOST_IN_BATCH {
            buffer.dropped += 1;
            self.metrics.dropped.inc();
            return;
        }
        buffer.pulls.push(Pull {
            time,
            client,
            image,
            name,
        });
        let full = buffer.pulls.len() == MOST_IN_BATCH;
        drop(buffer);
        if full {
            self.full.notify_one();
        }
    }

    fn client(&self, request: &Parts) -> Fingerprint {
        let address = address(request).map(|address| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        });
        let address = address.as_ref().map_or(&[][..], |address| &address[..]);
        let agent = request.headers.get(USER_AGENT);
        let agent = agent.map_or(&[][..], |agent| agent.as_bytes());
        Fingerprint::of(self.salt.as_bytes(), &[b"client", address, agent])
    }

    /// Returns the fingerprint of what two names of the same image have in common.
    fn name(&self, name: &ImageName) -> Fingerprint {
        let shell: &[u8] = if name.shell() { b"shell" } else { b"" };
        let architecture = name.architecture().oci_name();
        let packages = name.packages().iter().map(String::as_bytes);
        let parts: Vec<&[u8]> = [b"name", architecture.as_bytes(), shell]
            .into_iter()
            .chain(packages)
            .collect();
        Fingerprint::of(self.salt.as_bytes(), &parts)
    }

    /// Stores what was recorded so far. Pulls that cannot be stored are stored by the next call,
    /// even if this call is dropped.
    pub async fn flush(&self, storage: &dyn Storage) {
        let mut batch = self.storing.lock().await;
        // The batch of the last call first, then one batch of what was recorded since. With more
        // batches, steady pulls would keep this call busy.
        for fresh in [false, true] {
            if fresh {
                *batch = self.take();
            }
            if batch.is_empty() {
                continue;
            }
            let pulls = batch.len();
            if let Err(error) = store_pulls(storage, &batch).await {
                let error = error_chain(&error);
                tracing::warn!(
                    pulls,
                    error,
                    "cannot store recorded pulls; they are stored later"
                );
                self.metrics.failed_batches.inc();
                return;
            }
            self.metrics.stored.inc_by(pulls as u64);
            tracing::debug!(pulls, "stored recorded pulls");
            batch.clear();
        }
    }

    /// Takes the next batch.
    fn take(&self) -> Vec<Pull> {
        let (pulls, dropped) = {
            let mut buffer = self.buffer();
            let room = Vec::with_capacity(buffer.pulls.len());
            let pulls = std::mem::replace(&mut buffer.pulls, room);
            (pulls, std::mem::take(&mut buffer.dropped))
        };
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "pulls were not recorded, because more than {MOST_IN_BATCH} waited for the store"
            );
        }
        pulls
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the client's address: that of the first proxy's header, else the connection's.
///
/// A client may send the header itself and count as several clients. Only a statistic depends on
/// it, and a user agent can be invented as well.
fn address(request: &Parts) -> Option<IpAddr> {
    let parsed = forwarded(request, "x-forwarded-for").and_then(|text| {
        let alone = text.trim_matches(['[', ']']).parse();
        let address = alone.or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
        address.ok()
    });
    let peer = || {
        let peer = request.extensions.get::<ConnectInfo<SocketAddr>>();
        peer.map(|peer| peer.0.ip())
    };
    parsed.or_else(peer).map(|address| address.to_canonical())
}

/// Stores recorded pulls again and again, until it is dropped.
pub async fn record_forever(recorder: Arc<Recorder>, storage: Arc<dyn Storage>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = recorder.full.notified() => {}
        }
        recorder.flush(&*storage).await;
    }
}
