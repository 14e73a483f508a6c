//! One client that asks for more than everybody else, and what is left for the others.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nixery_e2e::{NixCalls, Registry, RegistryOptions};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::address;
use crate::claims::Claims;
use crate::client::{Connection, get};

/// Unknown names that the hostile client asks for, and how many requests it has open at once.
const NAMES: usize = 400;
const AT_ONCE: usize = 20;
/// The time that each evaluation takes at least.
const EVALUATION_SECONDS: u32 = 1;
/// New images that the other client pulls before and during the load.
const IMAGES: usize = 3;
/// Age from which a cached image of a moving source is evaluated again: the load lasts more than
/// ten of these.
const INTERVAL: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_secs(15);
/// The longest wait for an image, on a server without queues for each client too.
const LONGEST: Duration = Duration::from_secs(60);

/// What the hostile client saw.
#[derive(Default)]
struct Hostile {
    over: AtomicBool,
    asked: AtomicUsize,
    refused: AtomicUsize,
    /// Refusals that do not say when to ask again.
    without_retry: AtomicUsize,
}

#[test]
#[ignore = "needs Nix, takes 30 s: run make test"]
fn one_client_with_four_hundred_names_does_not_delay_another() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let calls = NixCalls::with_evaluations_of(EVALUATION_SECONDS);
    let options = RegistryOptions::salted(&folder)
        .env("PATH", &calls.path())
        .env("NIXERY_EVAL_INTERVAL", &INTERVAL.as_secs().to_string())
        .env("NIXERY_MAX_EVALUATIONS", "2")
        .env("NIXERY_HOLD_SECONDS", "1");
    let registry = Registry::start(options);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(compare(registry.port())).settle();
}

async fn compare(port: u16) -> Claims {
    let mut claims = Claims::default();
    let (other, reader) = (address(2, 1), address(2, 2));
    // The image that is cached, and the layers that all images share.
    let cached = time_of(reader, port, "hello").await;
    claims.check(
        "an image is built on an idle server",
        cached.is_some(),
        show(cached),
    );

    let idle = new_images(other, port, 1).await;
    let hostile = Arc::new(Hostile::default());
    let mut load = JoinSet::new();
    for number in 0..AT_ONCE {
        load.spawn(ask_for_names(port, number, Arc::clone(&hostile)));
    }
    let begun = Instant::now();
    let watching = tokio::spawn(watch(reader, port, Arc::clone(&hostile)));
    sleep(Duration::from_secs(3)).await;
    let loaded = new_images(other, port, 1 + IMAGES).await;
    while begun.elapsed() < LONGEST
        && (begun.elapsed() < LEAST || hostile.asked.load(Ordering::Relaxed) < NAMES)
    {
        sleep(Duration::from_millis(50)).await;
    }
    hostile.over.store(true, Ordering::Relaxed);
    let (answers, wrong) = watching.await.expect("a client does not panic");
    while let Some(done) = load.join_next().await {
        done.expect("a client does not panic");
    }

    let asked = hostile.asked.load(Ordering::Relaxed);
    let refused = hostile.refused.load(Ordering::Relaxed);
    claims.check(
        "the hostile client asks for 400 names",
        asked >= NAMES,
        asked,
    );
    claims.check(
        "another client's new image takes at most three times as long as on an idle server",
        matches!((idle, loaded), (Some(idle), Some(loaded)) if loaded <= idle * 3),
        format!("{} instead of {}", show(loaded), show(idle)),
    );
    claims.check(
        "a client that exceeds its share gets 429",
        refused > 0,
        format!("{refused} of {asked}"),
    );
    let silent = hostile.without_retry.load(Ordering::Relaxed);
    claims.check("every 429 says when to ask again", silent == 0, silent);
    claims.check(
        "the cached image of a moving source is served all the while",
        wrong.is_empty() && answers > 20,
        format!("{answers} served, {} not: {:?}", wrong.len(), wrong.first()),
    );
    claims
}

fn show(time: Option<Duration>) -> String {
    time.map_or_else(|| "no answer".to_owned(), |time| format!("{time:.1?}"))
}

/// The median time of some images that were never built.
async fn new_images(from: Ipv4Addr, port: u16, first: usize) -> Option<Duration> {
    let mut times = Vec::new();
    for number in first..first + IMAGES {
        times.push(time_of(from, port, &format!("fresh-{number}")).await?);
    }
    times.sort_unstable();
    Some(times[IMAGES / 2])
}

/// How long an image takes, asked for until it comes, as clients do.
async fn time_of(from: Ipv4Addr, port: u16, image: &str) -> Option<Duration> {
    let request = get(&format!("/v2/{image}/manifests/latest"));
    let asked = Instant::now();
    let answered = async {
        loop {
            let answer = match Connection::open(from, port).await {
                Ok(mut connection) => connection.ask(&request, true).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.status == 200 => return asked.elapsed(),
                // It is being built.
                Ok(answer) if answer.status == 307 => {}
                Ok(answer) => {
                    let text = String::from_utf8_lossy(&answer.body);
                    println!("{image}: {} {text}", answer.status);
                    sleep(Duration::from_millis(200)).await;
                }
                Err(error) => println!("{image}: {error}"),
            }
        }
    };
    timeout(LONGEST, answered).await.ok()
}

/// Asks for unknown names, a new one each time.
async fn ask_for_names(port: u16, number: usize, hostile: Arc<Hostile>) {
    let from = address(66, 1);
    for name in 0.. {
        if hostile.over.load(Ordering::Relaxed) {
            return;
        }
        let path = format!("/v2/unknown-{number}-{name}/manifests/latest");
        if let Ok(mut connection) = Connection::open(from, port).await
            && let Ok(answer) = connection.ask(&get(&path), true).await
        {
            hostile.asked.fetch_add(1, Ordering::Relaxed);
            if answer.status == 429 {
                hostile.refused.fetch_add(1, Ordering::Relaxed);
                if answer.header("retry-after").is_none() {
                    hostile.without_retry.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Asks for the cached image all the while: how often it came, and what came instead.
async fn watch(from: Ipv4Addr, port: u16, hostile: Arc<Hostile>) -> (usize, Vec<String>) {
    let request = get("/v2/hello/manifests/latest");
    let (mut answers, mut wrong) = (0, Vec::new());
    while !hostile.over.load(Ordering::Relaxed) {
        let answer = match Connection::open(from, port).await {
            Ok(mut connection) => connection.ask(&request, true).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer.status == 200 => answers += 1,
            Ok(answer) => wrong.push(format!("status {}", answer.status)),
            Err(error) => wrong.push(error.to_string()),
        }
        sleep(Duration::from_millis(250)).await;
    }
    (answers, wrong)
}
