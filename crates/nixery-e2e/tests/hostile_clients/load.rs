//! Every kind of hostile client at once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use nixery_e2e::{Registry, RegistryOptions, pull_checked};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::claims::Claims;
use crate::client::{Connection, get};
use crate::requests::{Subject, random};
use crate::streams::{Streams, hoard};
use crate::{SEED, address};

/// File descriptors that the server may open: too few for all of the idle connections. Those of
/// the tests must suffice for all clients.
const DESCRIPTORS: u64 = 4096;
const OUR_DESCRIPTORS: u64 = 8192;
/// The load lasts until all random requests were sent, and at least this long: longer than any of
/// the server's limits for answers that make no progress.
const LEAST: Duration = Duration::from_secs(55);
const MOST: Duration = Duration::from_secs(150);

const REQUESTS: usize = 20_000;
const REQUESTERS: usize = 40;
const IDLE: usize = 2_000;
const SLOW_READERS: usize = 500;
/// What a slow reader takes, and how often: 64 KiB in a second.
const SIP: usize = 16 * 1024;
const SIP_PAUSE: Duration = Duration::from_millis(250);

const MEMORY: u64 = 256 * 1024 * 1024;
/// The aim for the 99th percentile of a cached manifest, which is printed. What fails the test is
/// more generous, because the machine that runs it is also the one under load.
const AIM: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(1);

/// Blobs up to this size are served from memory.
const SMALL: u64 = 64 * 1024;
/// How long the sender of a random request waits for the answer.
const REQUEST_PATIENCE: Duration = Duration::from_secs(1);

/// The image whose manifest is asked for, and one with a layer that takes a slow reader minutes.
const CACHED: &str = "hello";
const LARGE: &str = "shell/git/htop";

#[test]
#[ignore = "needs Nix, takes a minute: run make test"]
fn hostile_clients_leave_the_server_to_the_others() {
    raise_descriptors();
    let options = RegistryOptions::demo()
        .descriptors(DESCRIPTORS)
        // Without it, Nix evaluates a local path for each request, and no manifest is cached.
        .env("NIXERY_EVAL_INTERVAL", "10m")
        .env("NIXERY_HOLD_SECONDS", "1");
    let registry = Registry::start(options);
    let manifest = pull_checked(&registry, CACHED);
    let subject = subject(&registry, manifest);
    let large = format!("/v2/{LARGE}/blobs/{}", largest_blob(&registry));
    let before = registry.open_descriptors().len();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let load = runtime.block_on(put_on(&registry, subject, &large));
    // All clients leave at once.
    runtime.shutdown_timeout(Duration::from_secs(5));

    let mut claims = Claims::default();
    load.check(&mut claims);
    let panics = registry.logged("panicked");
    claims.check("the server does not panic", panics == 0, panics);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut after = registry.open_descriptors();
    while after.len() > before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        after = registry.open_descriptors();
    }
    claims.check(
        "file descriptors return to their number before the load",
        after.len() <= before,
        format!("{before} before, {} after: {after:?}", after.len()),
    );
    claims.settle();
    // It is still the process that was started, and does what it did before.
    pull_checked(&registry, CACHED);
}

/// Allows this process the connections of all clients.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        most >= OUR_DESCRIPTORS,
        "the clients need {OUR_DESCRIPTORS} file descriptors, and the hard limit is {most}; raise it with `ulimit -Hn`"
    );
    let limit = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, limit).expect("a limit below the hard limit");
}

/// The cached image, as the random requests need it.
fn subject(registry: &Registry, manifest: String) -> Subject {
    let described = registry.manifest(CACHED).json();
    let layers = described["layers"].as_array().expect("layers");
    let (small, large): (Vec<_>, Vec<_>) = layers
        .iter()
        .chain([&described["config"]])
        .partition(|blob| blob["size"].as_u64() <= Some(SMALL));
    let digests = |blobs: Vec<&serde_json::Value>| {
        let digests = blobs.iter().filter_map(|blob| blob["digest"].as_str());
        digests.map(str::to_owned).collect::<Vec<_>>()
    };
    let subject = Subject {
        image: CACHED.to_owned(),
        manifest,
        small: digests(small),
        large: digests(large),
    };
    assert!(!subject.small.is_empty() && !subject.large.is_empty());
    subject
}

fn largest_blob(registry: &Registry) -> String {
    let manifest = registry.manifest(LARGE).json();
    let layers = manifest["layers"].as_array().expect("layers");
    let largest = layers
        .iter()
        .max_by_key(|layer| layer["size"].as_u64())
        .expect("an image has layers");
    assert!(
        largest["size"].as_u64() > Some(8_000_000),
        "a slow reader would finish: {largest}"
    );
    largest["digest"].as_str().expect("a digest").to_owned()
}

/// What all clients saw while the load was on.
#[derive(Default)]
struct Seen {
    /// Whether the load is over.
    over: AtomicBool,
    /// How often each status answered a random request.
    statuses: Mutex<BTreeMap<u16, usize>>,
    /// Random requests that were not answered in time, or whose connection the server ended.
    unanswered: AtomicUsize,
    /// How long each answer to the cached manifest took, and what came instead of a 200.
    manifests: Mutex<Vec<Duration>>,
    refused: Mutex<Vec<String>>,
    /// Slow readers whose answer began, and what ended answers before their end.
    reading: AtomicUsize,
    cut: Mutex<Vec<String>>,
    idle: AtomicUsize,
    zero_window: Arc<Streams>,
    small_window: Arc<Streams>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(of: &AtomicUsize) -> usize {
    of.load(Ordering::Relaxed)
}

/// The load, after it is over.
struct Load {
    seen: Arc<Seen>,
    lasted: Duration,
    most_memory: u64,
}

/// Lets all clients loose, and waits until the load is over.
async fn put_on(registry: &Registry, subject: Subject, large: &str) -> Load {
    let port = registry.port();
    let seen = Arc::new(Seen::default());
    let mut hostile = JoinSet::new();
    for (count, window, streams) in [(6, 0, &seen.zero_window), (50, 1, &seen.small_window)] {
        for number in 0..count {
            let from = address(6 + u8::from(window > 0), number / 5 + 1);
            hostile.spawn(hoard(
                from,
                port,
                large.to_owned(),
                window,
                Arc::clone(streams),
            ));
        }
    }
    for number in 0..IDLE {
        // Half of them from one address, the others from a hundred.
        let from = address(
            20,
            if number % 2 == 0 {
                250
            } else {
                number / 20 + 1
            },
        );
        hostile.spawn(stay_idle(from, port, number % 3, Arc::clone(&seen)));
    }
    for number in 0..SLOW_READERS {
        // One download each: a client with several would lose some to those that have none.
        let from = address(30 + (number / 250) as u8, number % 250 + 1);
        hostile.spawn(read_slowly(from, port, get(large), Arc::clone(&seen)));
    }
    let config = subject.small.last().expect("a config is small");
    let config = get(&format!("/v2/{CACHED}/blobs/{config}"));
    let watching = tokio::spawn(watch(port, config, Arc::clone(&seen)));
    let subject = Arc::new(subject);
    let mut requesters = JoinSet::new();
    for number in 0..REQUESTERS {
        let (subject, seen) = (Arc::clone(&subject), Arc::clone(&seen));
        requesters.spawn(send_random(number, port, subject, seen));
    }

    let (begun, mut most_memory) = (Instant::now(), 0);
    while begun.elapsed() < MOST && (begun.elapsed() < LEAST || !requesters.is_empty()) {
        sleep(Duration::from_millis(100)).await;
        most_memory = most_memory.max(registry.memory());
        while let Some(done) = requesters.try_join_next() {
            done.expect("a client does not panic");
        }
    }
    seen.over.store(true, Ordering::Relaxed);
    let lasted = begun.elapsed();
    watching.await.expect("a client does not panic");
    Load {
        seen,
        lasted,
        most_memory,
    }
}

/// Asks for a cached manifest, and for its config and the health now and then, on a new connection
/// each time.
async fn watch(port: u16, config: Vec<u8>, seen: Arc<Seen>) {
    let manifest = get(&format!("/v2/{CACHED}/manifests/latest"));
    let health = get("/healthz");
    let from = address(1, 1);
    for number in 0.. {
        if seen.over.load(Ordering::Relaxed) {
            return;
        }
        let request = match number % 20 {
            0 => &health,
            10 => &config,
            _ => &manifest,
        };
        let asked = Instant::now();
        let answer = match Connection::open(from, port).await {
            Ok(mut connection) => connection.ask(request, true).await,
            Err(error) => Err(error),
        };
        let took = asked.elapsed();
        if request == &manifest {
            lock(&seen.manifests).push(took);
        }
        match answer {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => lock(&seen.refused).push(format!("{} after {took:?}", answer.status)),
            Err(error) => lock(&seen.refused).push(format!("{error} after {took:?}")),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Sends its share of the random requests, on one connection while the server lets it.
async fn send_random(number: usize, port: u16, subject: Arc<Subject>, seen: Arc<Seen>) {
    let mut rng = Rng::with_seed(SEED + number as u64);
    let from = address(10, number + 1);
    let mut connection = None;
    for _ in 0..REQUESTS / REQUESTERS {
        let request = random(&mut rng, &subject);
        let mut used = match connection.take() {
            Some(connection) => connection,
            None => match Connection::open(from, port).await {
                Ok(connection) => connection,
                Err(_) => {
                    seen.unanswered.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let answer = used.ask(&request.bytes, request.body);
        // A client that has waited long enough leaves.
        if let Ok(Ok(answer)) = timeout(REQUEST_PATIENCE, answer).await {
            *lock(&seen.statuses).entry(answer.status).or_default() += 1;
            connection = used.open.then_some(used);
        } else {
            seen.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Holds a connection without asking for anything; `kind` says what it sends at first.
async fn stay_idle(from: Ipv4Addr, port: u16, kind: usize, seen: Arc<Seen>) {
    loop {
        if let Ok(mut connection) = Connection::open(from, port).await {
            let sent = match kind {
                0 => Ok(()),
                1 => connection.send(b"GET /v2/ HTTP/1.1\r\nHost: reg").await,
                _ => connection.ask(&get("/v2/"), true).await.map(|_| ()),
            };
            if sent.is_ok() {
                seen.idle.fetch_add(1, Ordering::Relaxed);
                // Until the server ends it.
                let _ = connection.sip(&mut [0; 512]).await;
            }
        }
        sleep(Duration::from_secs(10)).await;
    }
}

/// Reads an answer slowly but steadily; asks again if the server has no room.
async fn read_slowly(from: Ipv4Addr, port: u16, request: Vec<u8>, seen: Arc<Seen>) {
    loop {
        if let Ok(mut connection) = Connection::with_buffer(from, port, Some(64 * 1024)).await
            && connection.send(&request).await.is_ok()
            && let Ok(head) = connection.head().await
            && head.status == 200
        {
            seen.reading.fetch_add(1, Ordering::Relaxed);
            let (mut buffer, begun) = ([0; SIP], Instant::now());
            let mut read = 0;
            let end = loop {
                match connection.sip(&mut buffer).await {
                    Ok(0) => break "the connection ended".to_owned(),
                    Ok(bytes) => read += bytes,
                    Err(error) => break error.to_string(),
                }
                sleep(SIP_PAUSE).await;
            };
            let seconds = begun.elapsed().as_secs();
            lock(&seen.cut).push(format!("{end} after {read} bytes and {seconds} s"));
        }
        sleep(Duration::from_secs(2)).await;
    }
}

impl Load {
    fn check(&self, claims: &mut Claims) {
        let (seen, seconds) = (&*self.seen, self.lasted.as_secs());
        self.print();
        let statuses = lock(&seen.statuses);
        let answered: usize = statuses.values().sum();
        let sent = answered + count(&seen.unanswered);
        claims.check(
            &format!("all random requests are sent within {} s", MOST.as_secs()),
            sent == REQUESTS,
            format!("{sent} of {REQUESTS} in {seconds} s"),
        );
        claims.check(
            "four of five random requests are answered in time",
            answered >= sent / 5 * 4,
            format!("{answered} of {sent}"),
        );
        let expected = [200, 206, 304, 400, 404, 405, 416, 431];
        claims.check(
            "the random requests are of many kinds",
            expected.iter().all(|status| statuses.contains_key(status)),
            format!("{statuses:?}"),
        );
        let defects = |status: &u16| *status >= 500 && *status != 503;
        claims.check(
            "no random request is answered with a 5xx other than 503",
            !statuses.keys().any(defects),
            format!("{statuses:?}"),
        );
        let refused = lock(&seen.refused);
        claims.check(
            "a cached manifest, its config and the health are always answered with 200",
            refused.is_empty(),
            format!(
                "{} refused: {:?}",
                refused.len(),
                refused.iter().take(5).collect::<Vec<_>>()
            ),
        );
        let p99 = percentile(&lock(&seen.manifests), 99);
        claims.check(
            &format!("99 % of the manifests come within {LIMIT:?}"),
            p99.is_some_and(|p99| p99 < LIMIT),
            format!("{p99:?}, and the aim is {AIM:?}"),
        );
        let most = self.most_memory / 1_000_000;
        claims.check(
            "the server needs less than 256 MiB",
            self.most_memory < MEMORY,
            format!("{most} MB at most"),
        );
        self.check_streams(claims);
    }

    /// The clients that hold something really did.
    fn check_streams(&self, claims: &mut Claims) {
        let seen = &*self.seen;
        for (window, streams) in [
            ("0 bytes", &seen.zero_window),
            ("1 byte", &seen.small_window),
        ] {
            let (answered, reset) = (count(&streams.answered), count(&streams.reset));
            claims.check(
                &format!("answers that a window of {window} holds up are ended by the server"),
                answered > 0 && reset > 0,
                format!("{answered} begun, {reset} ended"),
            );
        }
        let (reading, cut) = (count(&seen.reading), lock(&seen.cut));
        claims.check(
            "slow readers that make progress are served on",
            reading > 0 && cut.is_empty(),
            format!(
                "{reading} served, {} cut: {:?}",
                cut.len(),
                cut.iter().take(5).collect::<Vec<_>>()
            ),
        );
    }

    fn print(&self) {
        let seen = &*self.seen;
        let manifests = lock(&seen.manifests);
        println!(
            "{} cached manifests in {:?}: median {:?}, 99 % within {:?} (aim {AIM:?}), all within {:?}",
            manifests.len(),
            self.lasted,
            percentile(&manifests, 50),
            percentile(&manifests, 99),
            percentile(&manifests, 100),
        );
        println!(
            "{} idle connections were opened; zero windows {:?}; small windows {:?}",
            count(&seen.idle),
            seen.zero_window,
            seen.small_window
        );
    }
}

/// The time within which this share of the answers came.
fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let last = (times.len() * percent).div_ceil(100).checked_sub(1)?;
    times.get(last).copied()
}
