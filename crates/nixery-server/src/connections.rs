//! Counts connections, in total and by client. Where there are too many, idle ones are closed.
//! Counts bytes that wait for their clients, too.
//!
//! A connection beyond the limits is closed at once, or gets a place in the reserve: there health
//! checks and requests for metrics succeed, and all other requests are answered with the reason.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use nixery_builder::ClientId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::budget::Budget;
use crate::error::{ApiError, Code, RETRY_SECONDS};
use crate::limits::Limits;

/// A client holds few bytes if it holds at most this part of the limit of bytes of all clients.
const FEW_BYTES_PART: usize = 256;
/// Idle connections that are compared to find the one that was idle for the longest time.
const COMPARED: usize = 64;
/// Time after which a connection of the reserve is closed if it has no request.
const RESERVE_IDLE: Duration = Duration::from_secs(5);
/// Time between two warnings of refused connections.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// All open connections of a server.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: Limits,
    /// What times are measured from.
    began: Instant,
    /// Bytes that wait for all clients.
    unsent: Arc<AtomicUsize>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Identifies the next connection.
    next: u64,
    clients: HashMap<ClientId, Client>,
    /// Connections of all clients.
    total: usize,
    reserve: Held,
    warned: Option<Instant>,
}

#[derive(Debug, Default)]
struct Client {
    connections: Held,
    /// Bytes that wait for this client.
    unsent: Arc<AtomicUsize>,
}

/// Connections in the order of their arrival.
type Held = BTreeMap<u64, Arc<Connection>>;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its client has too many connections, or too many bytes wait for it.
    Client,
    /// There are too many connections, or too many bytes wait for all clients.
    Total,
}

impl Refusal {
    /// Returns the answer to requests.
    pub(crate) fn error(self) -> ApiError {
        let (status, code, message) = match self {
            Self::Client => (
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyRequests,
                "your address has too many connections to this server, or leaves too many answers unread. Fix: pull again later; if many clients share the address, ask the operator to raise NIXERY_MAX_CONNECTIONS_PER_CLIENT",
            ),
            Self::Total => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "this server has too many connections or unread answers. Fix: pull again later",
            ),
        };
        ApiError::new(status, code, message).retry_after(RETRY_SECONDS)
    }
}

impl Connections {
    /// Returns an empty table.
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            began: Instant::now(),
            unsent: Arc::default(),
            table: Mutex::default(),
        })
    }

    /// Adds a connection, or returns `None` if it must be closed at once.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admission> {
        let client = ClientId::from_address(address);
        let mut table = self.table();
        let refusal = table.make_room(client, &self.limits).err();
        if let Some(refusal) = refusal {
            table.warn(client, refusal);
            if !table.make_room_in_reserve(client, self.limits.reserve) {
                return None;
            }
        }
        let unsent = table.unsent(client, refusal);
        let connection = Arc::new(Connection::new(client, refusal, unsent, self));
        Some(Admission {
            id: table.add(&connection),
            connection,
            connections: Arc::clone(self),
        })
    }

    /// Closes an idle connection, as the system has too few descriptors.
    pub(crate) fn close_idle(&self) {
        self.table().close_idle();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Closes idle connections until the client may have one more.
    fn make_room(&mut self, client: ClientId, limits: &Limits) -> Result<(), Refusal> {
        if let Some(client) = self.clients.get_mut(&client)
            && client.connections.len() >= limits.connections_per_client
        {
            // A client that has many connections loses its own first.
            if !close_oldest(&mut client.connections, |_| true) {
                return Err(Refusal::Client);
            }
            self.total -= 1;
        }
        if self.total >= limits.connections && !self.close_idle() {
            return Err(Refusal::Total);
        }
        Ok(())
    }

    /// Closes an idle connection of the client that has most of them, or else of any client.
    fn close_idle(&mut self) -> bool {
        let close = |client: &mut Client| close_oldest(&mut client.connections, |_| true);
        let clients = self.clients.values_mut();
        let most = clients.max_by_key(|client| client.connections.len());
        let closed = most.is_some_and(close) || self.clients.values_mut().any(close);
        self.total -= usize::from(closed);
        closed
    }

    /// Whether the reserve has a place. One client gets at most half of it.
    fn make_room_in_reserve(&mut self, client: ClientId, limit: usize) -> bool {
        let own = |connection: &Connection| connection.client == client;
        let held = self.reserve.values().filter(|connection| own(connection));
        if held.count() >= limit.div_ceil(2) {
            close_oldest(&mut self.reserve, own)
        } else {
            self.reserve.len() < limit || close_oldest(&mut self.reserve, |_| true)
        }
    }

    /// Returns the count of bytes that wait for a client.
    fn unsent(&mut self, client: ClientId, refusal: Option<Refusal>) -> Arc<AtomicUsize> {
        match refusal {
            None => Arc::clone(&self.clients.entry(client).or_default().unsent),
            Some(_) => self
                .clients
                .get(&client)
                .map_or_else(Arc::default, |client| Arc::clone(&client.unsent)),
        }
    }

    /// Adds a connection and returns its ID.
    fn add(&mut self, connection: &Arc<Connection>) -> u64 {
        let id = self.next;
        self.next += 1;
        let held = if connection.refusal.is_some() {
            &mut self.reserve
        } else {
            self.total += 1;
            let client = self.clients.entry(connection.client).or_default();
            &mut client.connections
        };
        held.insert(id, Arc::clone(connection));
        id
    }

    /// Removes a connection, unless it was closed to make room.
    fn remove(&mut self, id: u64, connection: &Connection) {
        if connection.refusal.is_some() {
            self.reserve.remove(&id);
        } else if let Some(client) = self.clients.get_mut(&connection.client) {
            self.total -= usize::from(client.connections.remove(&id).is_some());
            if client.connections.is_empty() {
                self.clients.remove(&connection.client);
            }
        }
    }

    fn warn(&mut self, client: ClientId, refusal: Refusal) {
        if self
            .warned
            .is_some_and(|warned| warned.elapsed() < WARNING_INTERVAL)
        {
            return;
        }
        self.warned = Some(Instant::now());
        let connections = self.total;
        match refusal {
            Refusal::Client => tracing::warn!(
                %client,
                connections,
                "a client has too many connections; further ones are refused. Fix: if it is a proxy, raise NIXERY_MAX_CONNECTIONS_PER_CLIENT (--max-connections-per-client)"
            ),
            Refusal::Total => tracing::warn!(
                connections,
                "there are too many connections; further ones are refused. Fix: raise NIXERY_MAX_CONNECTIONS (--max-connections), or add servers"
            ),
        }
    }
}

/// Closes the connection that was idle for the longest time, roughly. Returns whether one was idle.
fn close_oldest(held: &mut Held, may_close: impl Fn(&Connection) -> bool) -> bool {
    let idle = held
        .iter()
        .filter(|(_, connection)| connection.is_idle() && may_close(connection));
    let oldest = idle
        .take(COMPARED)
        .min_by_key(|(_, connection)| connection.since.load(Ordering::Relaxed));
    let closed = oldest
        .map(|(id, _)| *id)
        .and_then(|id| held.remove(&id))
        .inspect(|connection| connection.close());
    closed.is_some()
}

/// Whether a path is for programs that monitor this server: it is answered beyond all limits.
pub(crate) fn is_monitoring(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// A place in the table. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    id: u64,
    connection: Arc<Connection>,
    connections: Arc<Connections>,
}

impl Admission {
    /// Returns the connection that has the place.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.table().remove(self.id, &self.connection);
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    client: ClientId,
    refusal: Option<Refusal>,
    began: Instant,
    /// Requests that are being answered.
    running: AtomicUsize,
    /// Whether the system waits for the client before it takes more bytes.
    waiting: AtomicBool,
    /// When the last request began or ended, in milliseconds from `began`.
    since: AtomicU64,
    close: Notify,
    /// Bytes that wait for this client.
    client_bytes: Budget,
    /// Bytes that wait for all clients.
    total_bytes: Budget,
}

impl Connection {
    fn new(
        client: ClientId,
        refusal: Option<Refusal>,
        unsent: Arc<AtomicUsize>,
        connections: &Connections,
    ) -> Self {
        let limits = &connections.limits;
        let connection = Self {
            client,
            refusal,
            began: connections.began,
            running: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            since: AtomicU64::new(0),
            close: Notify::new(),
            client_bytes: Budget::new(unsent, limits.unsent_bytes_per_client()),
            total_bytes: Budget::new(Arc::clone(&connections.unsent), limits.unsent_bytes),
        };
        connection.touch();
        connection
    }

    /// Returns why a request for this path is refused, if it is.
    pub(crate) fn refusal_of(&self, path: &str) -> Option<Refusal> {
        self.refusal.filter(|_| !is_monitoring(path))
    }

    /// Records that a request is being answered, until the returned value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Running(Arc::clone(self))
    }

    /// Records whether the system waits for the client before it takes more bytes.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.touch();
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Counts the bytes of an answer until the returned value is dropped.
    ///
    /// # Errors
    /// Too many bytes wait for the client, or for all clients.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Result<UnsentBytes, Refusal> {
        if !self.client_bytes.take(bytes) {
            return Err(Refusal::Client);
        }
        // Clients that hold most bytes must not keep out one that holds few. For such clients there
        // are as many bytes again.
        let few = || self.client_bytes.used() <= self.total_bytes.limit() / FEW_BYTES_PART;
        let fits = self.total_bytes.take(bytes) || few() && self.total_bytes.take_twice(bytes);
        if !fits {
            self.client_bytes.give_back(bytes);
            return Err(Refusal::Total);
        }
        let connection = Arc::clone(self);
        Ok(UnsentBytes { connection, bytes })
    }

    /// Closes the connection at once.
    pub(crate) fn close(&self) {
        self.close.notify_one();
    }

    /// Waits until the connection is to be closed, to make room for others.
    pub(crate) async fn closed(&self) {
        self.close.notified().await;
    }

    /// Waits until there was no request for this time. It is shorter in the reserve.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        let limit = self.refusal.map_or(limit, |_| limit.min(RESERVE_IDLE));
        loop {
            let since = Duration::from_millis(self.since.load(Ordering::Relaxed));
            let unused = self.began.elapsed().saturating_sub(since);
            match limit.checked_sub(unused) {
                Some(rest) if self.is_idle() && !rest.is_zero() => sleep(rest).await,
                _ if self.is_idle() => return,
                _ => sleep(limit).await,
            }
        }
    }

    /// Starts the time without a request again.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(now, Ordering::Relaxed);
    }

    /// Whether the connection can be closed without a loss to its client.
    fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0 && !self.waiting.load(Ordering::Relaxed)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Running(Arc<Connection>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of an answer that its client has not taken yet.
#[derive(Debug)]
pub(crate) struct UnsentBytes {
    connection: Arc<Connection>,
    bytes: usize,
}

impl Drop for UnsentBytes {
    fn drop(&mut self) {
        self.connection.client_bytes.give_back(self.bytes);
        self.connection.total_bytes.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(connections: usize, per_client: usize, reserve: usize) -> Arc<Connections> {
        Connections::new(Limits {
            connections,
            connections_per_client: per_client,
            reserve,
            ..Limits::for_descriptors(1024)
        })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    async fn is_closed(admission: &Admission) -> bool {
        let closed = admission.connection().closed();
        tokio::time::timeout(Duration::ZERO, closed).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_too_many_connections_loses_its_oldest_idle_one() {
        let table = connections(10, 3, 2);
        let other = table.admit(address(2)).unwrap();
        let busy = table.admit(address(1)).unwrap();
        let _running = busy.connection().begin();
        sleep(Duration::from_millis(10)).await;
        let used = table.admit(address(1)).unwrap();
        let idle = table.admit(address(1)).unwrap();
        sleep(Duration::from_millis(10)).await;
        drop(used.connection().begin());

        let new = table.admit(address(1)).unwrap();
        assert_eq!(new.connection().refusal, None);
        assert!(is_closed(&idle).await);
        for kept in [&other, &busy, &used, &new] {
            assert!(!is_closed(kept).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_total_the_client_with_most_connections_loses_one() {
        let table = connections(4, 3, 2);
        let few = table.admit(address(1)).unwrap();
        sleep(Duration::from_millis(10)).await;
        let many: Vec<_> = (0..3).map(|_| table.admit(address(2)).unwrap()).collect();
        let _new = table.admit(address(3)).unwrap();
        assert!(!is_closed(&few).await);
        assert!(is_closed(&many[0]).await);
        assert_eq!(table.table().total, 4);
    }

    #[tokio::test]
    async fn without_idle_connections_a_client_gets_half_of_the_reserve() {
        let table = connections(10, 2, 4);
        let own: Vec<_> = (0..2).map(|_| table.admit(address(1)).unwrap()).collect();
        let mut running: Vec<_> = own.iter().map(|own| own.connection().begin()).collect();
        let reserve: Vec<_> = (0..2).map(|_| table.admit(address(1)).unwrap()).collect();
        let refused = reserve[0].connection();
        assert_eq!(refused.refusal_of("/v2/"), Some(Refusal::Client));
        assert_eq!(refused.refusal_of("/healthz"), None);
        running.extend(reserve.iter().map(|one| one.connection().begin()));
        assert!(table.admit(address(1)).is_none(), "the rest is for others");
        let other = table.admit(address(2)).unwrap();
        assert_eq!(other.connection().refusal_of("/v2/"), None);
        drop((running, own));
        let again = table.admit(address(1)).unwrap();
        assert_eq!(again.connection().refusal_of("/v2/"), None);
    }

    #[tokio::test]
    async fn monitoring_works_when_all_connections_are_busy() {
        let table = connections(1, 1, 1);
        let busy = table.admit(address(1)).unwrap();
        let _running = busy.connection().begin();
        let first = table.admit(address(2)).unwrap();
        assert_eq!(first.connection().refusal_of("/v2/"), Some(Refusal::Total));
        let second = table.admit(address(3)).unwrap();
        assert!(is_closed(&first).await, "it was idle");
        let _running = second.connection().begin();
        assert!(table.admit(address(4)).is_none());
    }

    #[tokio::test]
    async fn bytes_that_the_system_has_not_taken_keep_a_connection_busy() {
        let table = connections(1, 1, 1);
        let slow = table.admit(address(1)).unwrap();
        slow.connection().set_waiting(true);
        let new = table.admit(address(1)).unwrap();
        assert!(new.connection().refusal.is_some());
        slow.connection().set_waiting(false);
        let new = table.admit(address(1)).unwrap();
        assert!(new.connection().refusal.is_none());
    }

    #[tokio::test]
    async fn the_bytes_that_wait_for_a_client_and_for_all_are_bounded() {
        let table = Connections::new(Limits {
            connections: 4,
            connections_per_client: 2,
            unsent_bytes: 100,
            ..Limits::for_descriptors(1024)
        });
        let admitted = [1, 1, 2, 3].map(|last| table.admit(address(last)).unwrap());
        let hold = |number: usize, bytes| admitted[number].connection().hold(bytes);
        let first = hold(0, 40).unwrap();
        assert_eq!(hold(1, 11).unwrap_err(), Refusal::Client);
        let _small = hold(1, 10).unwrap();
        let _other = hold(2, 50).unwrap();
        assert_eq!(hold(3, 1).unwrap_err(), Refusal::Total);
        drop(first);
        let _later = hold(3, 40).unwrap();
        assert_eq!(hold(1, 1).unwrap_err(), Refusal::Total);
        drop((_small, _other, _later));
        assert_eq!(table.unsent.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_client_that_holds_few_bytes_gets_more_when_others_hold_all() {
        let total = 100 * FEW_BYTES_PART;
        let table = Connections::new(Limits {
            connections: 4,
            connections_per_client: 2,
            unsent_bytes: total,
            ..Limits::for_descriptors(1024)
        });
        let admitted = [1, 2, 3].map(|last| table.admit(address(last)).unwrap());
        let hold = |number: usize, bytes| admitted[number].connection().hold(bytes);
        let _all = [hold(0, total / 2).unwrap(), hold(1, total / 2).unwrap()];
        let few = [hold(2, 60).unwrap(), hold(2, 40).unwrap()];
        assert_eq!(hold(2, 1).unwrap_err(), Refusal::Total);
        drop(few);
        let _few = hold(2, 100).unwrap();
        assert_eq!(table.unsent.load(Ordering::Relaxed), total + 100);
    }

    #[tokio::test]
    async fn the_table_is_empty_when_all_connections_have_ended() {
        let table = connections(3, 2, 4);
        let admitted: Vec<_> = (0..20)
            .filter_map(|number| table.admit(address(number % 3)))
            .inspect(|admission| std::mem::forget(admission.connection().begin()))
            .collect();
        assert!(admitted.len() < 20);
        drop(admitted);
        let table = table.table();
        assert!(table.clients.is_empty() && table.reserve.is_empty());
        assert_eq!(table.total, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_without_a_request_counts_as_idle() {
        const MINUTE: Duration = Duration::from_secs(60);
        let table = connections(1, 1, 1);
        let admission = table.admit(address(1)).unwrap();
        let connection = admission.connection();
        let running = connection.begin();
        let waited = tokio::time::timeout(MINUTE * 10, connection.idle_for(MINUTE)).await;
        assert!(waited.is_err(), "a request is being answered");
        drop(running);
        let ended = Instant::now();
        connection.idle_for(MINUTE).await;
        assert!(ended.elapsed() >= MINUTE && ended.elapsed() < MINUTE * 2);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let table = connections(10, 1, 2);
        let admit = |address: &str| table.admit(address.parse().unwrap()).unwrap();
        let first = admit("2001:db8::1");
        let _running = first.connection().begin();
        assert!(admit("2001:db8::ffff:2").connection().refusal.is_some());
        assert_eq!(admit("2001:db8:0:1::1").connection().refusal, None);
    }
}
