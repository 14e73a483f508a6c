//! The protocol, with a clock that jumps to the next timer: hours pass in milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nixery_storage::{FilesystemStorage, MemoryStorage, PutMode, Storage, StorageError};
use tokio::time::{Instant, sleep, timeout};

use super::content::LeaseContent;
use super::{LEASES, Lease, Leases, RELEASE_TIMEOUT, key_of};
use crate::testing::faulty::FaultyStorage;

const TTL: Duration = Duration::from_secs(15);
/// A contender looks once a second, then writes its name and waits whether it stays.
const A_LITTLE: Duration = Duration::from_millis(1500);
const TASK: &str = "image x";

impl Leases {
    /// Returns the lease of a task if no live server holds it.
    pub(crate) async fn try_acquire(&self, task: &str) -> Result<Option<Lease>, StorageError> {
        self.contender(task).try_take().await
    }

    /// Returns the lease of a task as soon as no other server holds it.
    pub(crate) async fn acquire(&self, task: &str) -> Result<Lease, StorageError> {
        let forever = Duration::from_secs(u64::MAX);
        let never = std::future::pending();
        let lease = self.contender(task).take_within(forever, never).await?;
        Ok(lease.expect("it never stops"))
    }
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

fn on(storage: &Arc<dyn Storage>) -> Leases {
    Leases::new(Arc::clone(storage), TTL, true)
}

fn behind(storage: &Arc<FaultyStorage>) -> Leases {
    Leases::new(Arc::<FaultyStorage>::clone(storage), TTL, true)
}

/// Stores a lease whose holder ran on another machine, or is a dead process of this one.
async fn leave_behind(storage: &Arc<dyn Storage>, here: bool) {
    let content = LeaseContent::new(TASK, TTL, "left behind".into());
    let mut json: serde_json::Value = serde_json::from_slice(&content.bytes()).expect("JSON");
    if here {
        // The PID belongs to this process now.
        json["process"]["started"] = 1.into();
    } else {
        json.as_object_mut().expect("an object").remove("process");
    }
    let _ = storage
        .put(&key_of(TASK), json.to_string().into(), PutMode::Replace)
        .await
        .expect("puts");
}

async fn is_free(storage: &Arc<dyn Storage>) -> bool {
    storage.stat(&key_of(TASK)).await.expect("works").is_none()
}

#[tokio::test(start_paused = true)]
async fn one_server_holds_a_lease_and_the_next_gets_it_when_it_is_released() {
    let storage = memory();
    let (here, there) = (on(&storage), on(&storage));
    let lease = here.acquire(TASK).await.expect("free");
    assert!(here.try_acquire(TASK).await.expect("works").is_none());
    assert!(there.try_acquire(TASK).await.expect("works").is_none());
    let _other = there
        .try_acquire("image y")
        .await
        .expect("works")
        .expect("another task");

    let begun = Instant::now();
    let waiting = tokio::spawn(async move { there.acquire(TASK).await });
    sleep(10 * TTL).await;
    assert!(!waiting.is_finished(), "it was renewed all the time");
    assert!(!lease.is_lost());
    drop(lease);
    here.settled().await;
    let next = waiting.await.expect("runs").expect("works");
    assert!(begun.elapsed() < 10 * TTL + A_LITTLE);
    next.release().await;
    assert!(is_free(&storage).await);
}

#[tokio::test(start_paused = true)]
async fn a_lease_left_by_another_machine_is_taken_over_after_the_lease_time() {
    let storage = memory();
    leave_behind(&storage, false).await;
    let begun = Instant::now();
    let lease = on(&storage).acquire(TASK).await.expect("works");
    let waited = begun.elapsed();
    assert!((TTL..TTL + A_LITTLE).contains(&waited), "{waited:?}");
    lease.release().await;
    assert!(is_free(&storage).await);
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn a_lease_left_by_a_dead_process_of_this_machine_is_taken_over_at_once() {
    let storage = memory();
    leave_behind(&storage, true).await;
    let begun = Instant::now();
    let _lease = on(&storage)
        .try_acquire(TASK)
        .await
        .expect("works")
        .expect("taken over");
    assert!(begun.elapsed() < Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_object_expires_like_a_lease() {
    let storage = memory();
    let _ = storage
        .put(&key_of(TASK), "?".into(), PutMode::Replace)
        .await
        .expect("puts");
    let begun = Instant::now();
    let _lease = on(&storage).acquire(TASK).await.expect("works");
    assert!(begun.elapsed() >= TTL);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_renew_notices_the_loss_and_keeps_the_next_lease() {
    let storage = memory();
    let cut_off = FaultyStorage::new(Arc::clone(&storage));
    let (here, there) = (behind(&cut_off), on(&storage));
    let lease = here.acquire(TASK).await.expect("free");

    cut_off.leases_fail.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let next = there.acquire(TASK).await.expect("works");
    assert!(begun.elapsed() < TTL + A_LITTLE);
    assert!(!lease.is_lost(), "it cannot know");

    cut_off.leases_fail.store(false, Ordering::SeqCst);
    sleep(TTL).await;
    assert!(lease.is_lost());
    drop(lease);
    here.settled().await;
    assert!(!is_free(&storage).await, "the next holder has it");
    assert!(!next.is_lost());
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_lease_time_loses_no_lease() {
    let storage = memory();
    let unsteady = FaultyStorage::new(Arc::clone(&storage));
    let lease = behind(&unsteady).acquire(TASK).await.expect("free");
    let other = behind(&unsteady);
    let waiting = tokio::spawn(async move {
        let mut contender = other.contender(TASK);
        while !contender.may_try().await {
            contender.pause().await;
        }
    });
    for _ in 0..10 {
        sleep(TTL).await;
        unsteady.leases_fail.store(true, Ordering::SeqCst);
        sleep(TTL * 3 / 4).await;
        unsteady.leases_fail.store(false, Ordering::SeqCst);
    }
    assert!(!lease.is_lost());
    assert!(
        !waiting.is_finished(),
        "a failing store says nothing about the holder"
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_long_lets_every_server_try() {
    let storage = memory();
    leave_behind(&storage, false).await;
    let failing = FaultyStorage::new(Arc::clone(&storage));
    let mut contender = behind(&failing).contender(TASK);
    assert!(contender.try_take().await.expect("works").is_none());
    failing.leases_fail.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    while !contender.may_try().await {
        contender.pause().await;
    }
    assert!((TTL..TTL + A_LITTLE).contains(&begun.elapsed()));
    contender
        .try_take()
        .await
        .expect_err("the caller continues without a lease");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_does_not_lose_the_lease() {
    let storage = memory();
    let lossy = FaultyStorage::new(Arc::clone(&storage));
    lossy.answers_get_lost.store(true, Ordering::SeqCst);
    let leases = behind(&lossy);
    let lease = leases
        .try_acquire(TASK)
        .await
        .expect("works")
        .expect("created");
    lease.release().await;
    assert!(is_free(&storage).await);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_does_not_wait_for_a_store_that_does_not_answer() {
    let silent = FaultyStorage::new(memory());
    let leases = behind(&silent);
    let _lease = leases.acquire(TASK).await.expect("free");
    silent.dead.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    timeout(10 * TTL, leases.give_up())
        .await
        .expect("it has an end");
    assert!(begun.elapsed() <= RELEASE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_releases_its_leases() {
    let storage = memory();
    let leases = on(&storage);
    let lease = leases.acquire(TASK).await.expect("free");
    let _other = leases.acquire("image y").await.expect("free");
    leases.give_up().await;
    assert!(is_free(&storage).await);
    // Dropping them afterwards does not hang.
    drop(lease);
    leases.settled().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_time_every_server_gets_every_lease() {
    let storage = memory();
    let leases = Leases::new(Arc::clone(&storage), Duration::ZERO, true);
    let _one = leases.acquire(TASK).await.expect("no store");
    let _two = leases.acquire(TASK).await.expect("no store");
    assert!(is_free(&storage).await);
}

/// Several servers want one lease at about the same time, on a store that takes up to 100 ms for
/// each call. Some of them die.
async fn schedule(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let storage = memory();
    if seed.is_multiple_of(2) {
        leave_behind(&storage, false).await;
    }
    let exclusive = !seed.is_multiple_of(3);
    let holders = Arc::new(AtomicUsize::new(0));
    let servers: Vec<_> = (0..random.usize(3..6))
        .map(|_| {
            let delay = Duration::from_millis(50);
            let view = FaultyStorage::slow(Arc::clone(&storage), delay, random.u64(..));
            view.not_exclusive.store(!exclusive, Ordering::SeqCst);
            let own = Arc::<FaultyStorage>::clone(&view);
            let leases = Leases::seeded(own, TTL, exclusive, random.u64(..));
            let comes = Duration::from_millis(random.u64(..2000));
            let works = Duration::from_millis(random.u64(..40_000));
            let dies = random.u32(..).is_multiple_of(4);
            let holders = Arc::clone(&holders);
            tokio::spawn(async move {
                sleep(comes).await;
                let lease = leases.acquire(TASK).await.expect("works");
                let before = holders.fetch_add(1, Ordering::SeqCst);
                assert_eq!(before, 0, "two servers hold it, seed {seed}");
                sleep(works).await;
                assert!(!lease.is_lost(), "seed {seed}");
                holders.fetch_sub(1, Ordering::SeqCst);
                if dies {
                    view.dead.store(true, Ordering::SeqCst);
                } else {
                    lease.release().await;
                }
            })
        })
        .collect();
    // Each server works for at most 40 s, and may leave its lease behind.
    let enough = 6 * (Duration::from_secs(40) + TTL + 2 * A_LITTLE);
    let all = futures::future::join_all(servers);
    let ended = timeout(enough, all).await;
    for server in ended.unwrap_or_else(|_| unreachable!("no server gets it, seed {seed}")) {
        server.expect("holds what it should");
    }
}

#[test]
fn no_schedule_gives_a_lease_to_two_servers_or_loses_it() {
    for seed in 0..300 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(schedule(seed));
    }
}

/// Real time and real files.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_a_file_system_one_of_many_servers_gets_the_lease() {
    let folder = tempfile::tempdir().expect("temp dir");
    let open =
        || -> Arc<dyn Storage> { Arc::new(FilesystemStorage::open(folder.path()).expect("opens")) };
    let held = Arc::new(AtomicUsize::new(0));
    let servers = (0..8).map(|_| {
        let (leases, held) = (on(&open()), Arc::clone(&held));
        tokio::spawn(async move {
            let lease = leases.try_acquire(TASK).await.expect("works");
            if lease.is_some() {
                held.fetch_add(1, Ordering::SeqCst);
            }
            lease
        })
    });
    let leases: Vec<_> = futures::future::join_all(servers).await;
    assert_eq!(held.load(Ordering::SeqCst), 1);
    for lease in leases.into_iter().flatten().flatten() {
        lease.release().await;
    }
    let entries = open().list(LEASES).await.expect("lists");
    assert_eq!(futures::StreamExt::count(entries).await, 0);
}
