//! Recording pulls, so that an operator can replay them: `nixery layers replay --from-server`.
//!
//! A pull is a GET for a manifest that was answered with it. Recording costs it two hashes and a short
//! lock; storing is left to [`record_forever`], and no pull waits for the store.

use crate::state::AppState;
use axum::extract::ConnectInfo;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{Method, StatusCode};
use nixery_core::ImageName;
use nixery_lab::traffic::{Fingerprint, MOST_IN_BATCH, Pull, is_plausible, store_pulls};
use nixery_manifest::Digest;
use nixery_storage::Storage;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Time after which recorded pulls are stored: what a server that is killed loses at most.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Manifests of which it is remembered what image they are, in each of two generations.
const KNOWN: usize = 20_000;

/// The secret that makes fingerprints of addresses useless to others.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(Box<[u8]>);

impl Salt {
    /// A salt of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// A random salt.
    #[must_use]
    pub fn random() -> Self {
        // Its keys are 128 bits from the system's source of randomness.
        let random = RandomState::new();
        let bytes = (0..4).flat_map(|number| random.hash_one(number).to_be_bytes());
        Self(bytes.collect())
    }
}

/// Hides it.
impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(…)")
    }
}

/// Records pulls in memory, bounded, until they are stored.
#[derive(Debug)]
pub struct Recorder {
    salt: Salt,
    buffer: Mutex<Buffer>,
    full: Notify,
    /// The batch that is on its way to the store. It stays as it is until it is there: a write that failed may
    /// have succeeded, and equal bytes have one name.
    storing: tokio::sync::Mutex<Vec<Pull>>,
    metrics: TrafficMetrics,
}

#[derive(Debug, Default)]
struct Buffer {
    pulls: Vec<Pull>,
    /// Not recorded since it was last said.
    dropped: u64,
    known: Known,
}

/// What a recorder did, from the start of the process.
#[derive(Debug, Default)]
struct TrafficMetrics {
    stored: AtomicU64,
    dropped: AtomicU64,
    unknown: AtomicU64,
    failed_batches: AtomicU64,
}

impl Recorder {
    /// A recorder that has seen nothing.
    #[must_use]
    pub fn new(salt: Salt) -> Self {
        Self {
            salt,
            buffer: Mutex::default(),
            full: Notify::new(),
            storing: tokio::sync::Mutex::default(),
            metrics: TrafficMetrics::default(),
        }
    }

    /// Notes the answer to a request for a manifest. `image` is the image's key; who asks by digest does not
    /// tell it, but has mostly asked for the tag before.
    pub(crate) fn answered(
        &self,
        request: &Parts,
        status: StatusCode,
        name: &ImageName,
        manifest: &Digest,
        image: Option<Digest>,
    ) {
        if let Some(image) = image {
            self.buffer().known.insert(*manifest, image);
        }
        // Who asks with HEAD, or has the manifest, fetches nothing.
        if request.method != Method::GET || status != StatusCode::OK {
            return;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = time.as_ref().map_or(0, Duration::as_secs);
        if !is_plausible(time) {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                tracing::warn!(
                    time,
                    "pulls are not recorded: this machine's clock is not set"
                );
            });
            self.metrics.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (client, name) = (self.client(request), self.name(name));
        let mut buffer = self.buffer();
        let Some(image) = image.or_else(|| buffer.known.get(manifest)) else {
            self.metrics.unknown.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if buffer.pulls.len() >= MOST_IN_BATCH {
            buffer.dropped += 1;
            self.metrics.dropped.fetch_add(1, Ordering::Relaxed);
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
        Fingerprint::of(&self.salt.0, &[b"client", address, agent])
    }

    /// Of what makes two names ask for the same image.
    fn name(&self, name: &ImageName) -> Fingerprint {
        let shell: &[u8] = if name.shell() { b"shell" } else { b"" };
        let architecture = name.architecture().oci_name();
        let packages = name.packages().iter().map(String::as_bytes);
        let parts: Vec<&[u8]> = [b"name", architecture.as_bytes(), shell]
            .into_iter()
            .chain(packages)
            .collect();
        Fingerprint::of(&self.salt.0, &parts)
    }

    /// Stores what was recorded so far. What the store does not take is tried again the next time, also after
    /// this call was given up.
    pub async fn flush(&self, storage: &dyn Storage) {
        let mut batch = self.storing.lock().await;
        // What waits from the last time, and then one batch of what came since: who pulls all the time must not
        // keep this going with ever smaller ones.
        for fresh in [false, true] {
            if fresh {
                *batch = self.take();
            }
            if batch.is_empty() {
                continue;
            }
            if let Err(error) = store_pulls(storage, &batch).await {
                let cause = crate::explain(&error);
                tracing::warn!(
                    pulls = batch.len(),
                    cause,
                    "recorded pulls could not be stored; it is tried again"
                );
                self.metrics.failed_batches.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let stored = batch.len() as u64;
            self.metrics.stored.fetch_add(stored, Ordering::Relaxed);
            tracing::debug!(pulls = stored, "recorded pulls are stored");
            batch.clear();
        }
    }

    /// The next batch.
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
                "pulls were not recorded: more than {MOST_IN_BATCH} waited for the store"
            );
        }
        pulls
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the families of recording.
    pub(crate) fn render(&self, mut family: impl FnMut(&str, &str, &str, Vec<(String, String)>)) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let metrics = &self.metrics;
        family(
            "nixery_traffic_pulls_total",
            "counter",
            "Pulls that were recorded and stored, dropped for want of room or of a set clock, or of an unknown image",
            vec![
                ("result=\"stored\"".to_owned(), get(&metrics.stored)),
                ("result=\"dropped\"".to_owned(), get(&metrics.dropped)),
                ("result=\"unknown\"".to_owned(), get(&metrics.unknown)),
            ],
        );
        family(
            "nixery_traffic_store_failures_total",
            "counter",
            "Times that recorded pulls could not be stored",
            vec![(String::new(), get(&metrics.failed_batches))],
        );
    }
}

/// Which image a manifest is of, as far as it was asked for lately.
#[derive(Debug, Default)]
struct Known {
    young: HashMap<Digest, Digest>,
    old: HashMap<Digest, Digest>,
}

impl Known {
    fn insert(&mut self, manifest: Digest, image: Digest) {
        if self.young.get(&manifest) == Some(&image) {
            return;
        }
        if self.young.len() >= KNOWN {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(manifest, image);
    }

    fn get(&self, manifest: &Digest) -> Option<Digest> {
        let found = self.young.get(manifest).or_else(|| self.old.get(manifest));
        found.copied()
    }
}

/// The client's address: what the first proxy says, else the connection's.
///
/// Anybody may send the header and pass for several clients. Nothing but a statistic hangs on it, and a user
/// agent can be made up as well.
fn address(request: &Parts) -> Option<IpAddr> {
    let forwarded = request.headers.get("x-forwarded-for");
    let first = forwarded
        .and_then(|value| value.to_str().ok()?.split(',').next())
        .map(str::trim);
    let parsed = first.and_then(|text| {
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

/// Stores recorded pulls again and again, until it is dropped; forever pending where nothing is recorded.
pub async fn record_forever(state: AppState) {
    let Some(recorder) = state.recorder() else {
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = recorder.full.notified() => {}
        }
        state.store_recorded().await;
    }
}
