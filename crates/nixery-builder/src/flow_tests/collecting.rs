//! Garbage collections, builds and pulls at the same time, with any order of their calls to the
//! store. Collectors may be killed. No image that was answered or kept may lack a blob.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use futures::task::noop_waker_ref;
use nixery_core::PackageSource;
use nixery_manifest::Digest;
use nixery_state::gc::{GcError, GcMode, GcPolicy, collect};
use nixery_state::record::{self, BUILDS, MANIFESTS};
use nixery_state::testing::stepped::Stepped;
use nixery_state::testing::world::{
    GRACE, Made, RETENTIONS, is_there, layer_key, layer_record, memory,
};
use nixery_storage::{Key, MemoryStorage};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::{Instant, advance};

use crate::config::BuilderConfig;
use crate::engine::Engine;
use crate::testing::{FakeNix, request};
use crate::{image_store, layers};

/// Servers on the store.
const SERVERS: usize = 2;
/// Longest time that a build or a pull may take within the grace period.
const LONGEST: Duration = Duration::from_secs(GRACE.as_secs() / 2);

/// One step of the model.
#[derive(Debug, Clone)]
enum Move {
    /// The running actor with this number makes some calls.
    Step(usize, u8),
    /// A client pulls an image by its tag, which builds the image if it is missing.
    Pull {
        server: usize,
        image: usize,
    },
    /// A client pulls an image by the digest of its manifest.
    PullDigest {
        server: usize,
        image: usize,
    },
    Collect(GcPolicy),
    /// The collector with this number is killed.
    Kill(usize),
    /// Seconds pass, unless a build or pull would take too long.
    Wait(u64),
    /// Background tasks run.
    Background,
}

fn policies() -> impl Strategy<Value = GcPolicy> {
    let time = || prop::option::of((0..3 * GRACE.as_secs()).prop_map(Duration::from_secs));
    (time(), time(), prop::option::of(0..60_u64)).prop_map(|(max_unused, max_age, max_size)| {
        let mut policy = GcPolicy::default();
        policy.max_unused = max_unused;
        policy.max_age = max_age;
        policy.max_size = max_size;
        policy.grace = GRACE;
        policy
    })
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let server = || 0..SERVERS;
    let image = || 0..IMAGES.len();
    let one = prop_oneof![
        60 => (any::<usize>(), 1..40_u8).prop_map(|(actor, steps)| Move::Step(actor, steps)),
        6 => (server(), image()).prop_map(|(server, image)| Move::Pull { server, image }),
        3 => (server(), image()).prop_map(|(server, image)| Move::PullDigest { server, image }),
        6 => policies().prop_map(Move::Collect),
        1 => any::<usize>().prop_map(Move::Kill),
        6 => (0..3 * GRACE.as_secs()).prop_map(Move::Wait),
        6 => (0..60_u64).prop_map(Move::Wait),
        6 => Just(Move::Background),
    ];
    prop::collection::vec(one, 30..250)
}

/// Layers are shared in different ways.
const IMAGES: [&[&str]; 4] = [
    &["libc", "git"],
    &["libc", "htop"],
    &["libc", "git", "htop"],
    &["jq"],
];

fn image(at: usize) -> Made {
    Made::new(&format!("image {at}"), IMAGES[at])
}

type Actor = Pin<Box<dyn Future<Output = Result<(), String>>>>;

struct World {
    memory: Arc<MemoryStorage>,
    store: Arc<Stepped>,
    servers: Vec<Arc<Engine>>,
    _spool: TempDir,
    /// Builds and pulls, and when they must have ended.
    clients: Vec<(Actor, Instant)>,
    collectors: Vec<Actor>,
}

impl World {
    async fn new() -> Self {
        let spool = tempfile::tempdir().expect("temp dir");
        let memory = memory();
        let store = Stepped::new(memory.clone());
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            let source = PackageSource::path("/srv/pkgs").expect("valid");
            let config = BuilderConfig {
                gc_grace: GRACE,
                lease_ttl: Duration::ZERO,
                ..BuilderConfig::new(source, spool.path())
            };
            let engine = Engine::new(config, Arc::new(FakeNix::new()), store.clone()).await;
            servers.push(Arc::new(engine.expect("opens")));
        }
        Self {
            servers,
            memory,
            store,
            _spool: spool,
            clients: Vec::new(),
            collectors: Vec::new(),
        }
    }

    async fn go(&mut self, next: Move) -> Result<(), String> {
        match next {
            Move::Step(actor, steps) => {
                let actors = self.clients.len() + self.collectors.len();
                if actors > 0 {
                    for _ in 0..steps {
                        if self.step(actor % actors)? {
                            break;
                        }
                    }
                }
            }
            Move::Pull { server, image: at } => {
                let engine = self.servers[server].clone();
                self.start(pull(engine, image(at)));
            }
            Move::PullDigest { server, image: at } => {
                let engine = self.servers[server].clone();
                self.start(pull_by_digest(engine, image(at)));
            }
            Move::Collect(policy) => {
                let store = self.store.clone();
                self.collectors.push(Box::pin(async move {
                    match collect(store, &policy, &RETENTIONS, GcMode::Sweep, |_| ()).await {
                        Ok(_) => Ok(()),
                        // The collection was paused for too long.
                        Err(GcError::Busy | GcError::Superseded | GcError::Slow { .. }) => Ok(()),
                        Err(error) => Err(error.to_string()),
                    }
                }));
            }
            Move::Kill(at) => {
                if !self.collectors.is_empty() {
                    drop(self.collectors.remove(at % self.collectors.len()));
                }
            }
            Move::Wait(seconds) => {
                let until = Instant::now() + Duration::from_secs(seconds);
                let deadline = self.clients.iter().map(|(_, deadline)| *deadline).min();
                let until = deadline.map_or(until, |deadline| until.min(deadline));
                advance(until.saturating_duration_since(Instant::now())).await;
            }
            Move::Background => tokio::task::yield_now().await,
        }
        Ok(())
    }

    fn start(&mut self, client: impl Future<Output = Result<(), String>> + 'static) {
        self.clients
            .push((Box::pin(client), Instant::now() + LONGEST));
    }

    /// Makes one call of an actor, and returns whether the actor has ended.
    fn step(&mut self, at: usize) -> Result<bool, String> {
        let mut context = Context::from_waker(noop_waker_ref());
        let clients = self.clients.len();
        let actor = match at.checked_sub(clients) {
            None => &mut self.clients[at].0,
            Some(at) => &mut self.collectors[at],
        };
        let polled = actor.as_mut().poll(&mut context);
        let ended = polled.is_ready();
        if ended {
            match at.checked_sub(clients) {
                None => drop(self.clients.remove(at)),
                Some(at) => drop(self.collectors.remove(at)),
            }
        }
        if let std::task::Poll::Ready(result) = polled {
            result?;
        }
        Ok(ended)
    }

    /// Runs all actors to their end.
    async fn finish(&mut self) -> Result<(), String> {
        for round in 0..10_000 {
            let actors = self.clients.len() + self.collectors.len();
            if actors == 0 {
                return Ok(());
            }
            for at in (0..actors).rev() {
                self.step(at)?;
            }
            tokio::task::yield_now().await;
            // A collector that was paused for hours while it took its lease pauses longer.
            let hurry = self.clients.is_empty() && round > 2000;
            advance(Duration::from_millis(if hurry { 86_400_000 } else { 250 })).await;
        }
        Err(format!(
            "{} builds and pulls and {} collections never end",
            self.clients.len(),
            self.collectors.len()
        ))
    }

    async fn check(&self) -> Result<(), String> {
        for at in 0..IMAGES.len() {
            let image = image(at);
            if is_there(&*self.memory, Key::new(MANIFESTS, image.key)).await
                && !image.is_whole(&*self.memory).await
            {
                return Err(format!("image {at} is kept and lacks a blob"));
            }
        }
        Ok(())
    }
}

/// Answers a tag as the server does, and fetches the blobs as a client does.
async fn pull(engine: Arc<Engine>, image: Made) -> Result<(), String> {
    let words = |error: crate::BuildError| error.to_string();
    let cached = image_store::find(&engine, image.key, &request("git"))
        .await
        .map_err(words)?;
    if cached.is_none() {
        build(&engine, &image).await.map_err(words)?;
    }
    engine
        .blobs
        .uses()
        .mark_soon(image.digest(), &Handle::current());
    fetch(&engine, &image, "its tag was answered").await
}

async fn pull_by_digest(engine: Arc<Engine>, image: Made) -> Result<(), String> {
    match image_store::manifest_to_serve(&engine, &image.digest()).await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => fetch(&engine, &image, "its digest was answered").await,
        Err(error) => Err(error.to_string()),
    }
}

async fn fetch(engine: &Engine, image: &Made, when: &str) -> Result<(), String> {
    for digest in image.blobs().into_iter().rev() {
        let blob = engine.storage.stat(&Key::blob(digest)).await;
        if blob.map_err(|error| error.to_string())?.is_none() {
            return Err(format!(
                "a blob of {:?} is missing after {when}",
                image.layers
            ));
        }
    }
    Ok(())
}

/// Makes the calls of the main flow to the store.
async fn build(engine: &Engine, image: &Made) -> Result<(), crate::BuildError> {
    for layer in &image.layers {
        let key = layer_key(layer.as_bytes());
        let key = key.digest().expect("it is one");
        if layers::find(engine, key, &[]).await?.is_none() {
            let record = layer_record(layer.as_bytes());
            let (digest, size) = (record.layer.digest, record.layer.size);
            engine
                .blobs
                .put_file(digest, size, Path::new(layer))
                .await?;
            let saved = record::save(&*engine.storage, None, &Key::new(BUILDS, key), &record).await;
            saved.map_err(crate::BuildError::stored)?;
        }
    }
    for bytes in [&image.config, &image.manifest] {
        let bytes = bytes.clone();
        engine.blobs.put(Digest::of(&bytes), bytes).await?;
    }
    let remembered = image.remember(&*engine.storage).await;
    remembered.map_err(crate::BuildError::stored)
}

fn cases() -> u32 {
    let more = std::env::var("PROPTEST_CASES").ok();
    more.and_then(|cases| cases.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn nothing_that_was_answered_or_kept_lacks_a_blob(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let result = runtime.block_on(async {
            let mut world = World::new().await;
            for (at, next) in moves.into_iter().enumerate() {
                world.go(next).await?;
                world.check().await.map_err(|error| format!("after move {at}: {error}"))?;
            }
            world.finish().await?;
            world.check().await
        });
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}
