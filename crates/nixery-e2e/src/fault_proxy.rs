//! A proxy in front of a storage engine that does harm, decided by a seed.
//!
//! What happens to the n-th request follows from the seed alone, so a run that found something can
//! be repeated as far as the order of requests is the same. Requests pass byte for byte, with their
//! `Host`: signatures stay valid.

use rustix::net::sockopt::set_socket_linger;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much is copied at once.
const CHUNK: usize = 16 * 1024;
/// More than any request head of the storage clients.
const MOST_HEAD: usize = 64 * 1024;

/// How long a delay or a stall takes at most: enough to reorder what runs at once, not to run into
/// time-outs.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What the proxy does to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 503 at once; the engine sees nothing.
    Unavailable,
    /// 500 although the engine got the request and did what it asks.
    LostAnswer,
    /// The connection is reset before the engine sees anything.
    ResetAtOnce,
    /// The connection is reset after part of the request's body.
    ResetUpload,
    /// 503 after part of the request's body; the engine's connection ends there.
    UnavailableUpload,
    /// The connection ends in the orderly way after part of the answer.
    TruncateAnswer,
    /// The connection is reset after part of the answer.
    ResetAnswer,
    /// The request is passed on late.
    Delay,
    /// The answer pauses after part of it.
    StallAnswer,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::Unavailable,
        Self::LostAnswer,
        Self::ResetAtOnce,
        Self::ResetUpload,
        Self::UnavailableUpload,
        Self::TruncateAnswer,
        Self::ResetAnswer,
        Self::Delay,
        Self::StallAnswer,
    ];
}

/// The fault of the n-th request, and how far into body or answer it strikes (0 to 1).
fn decide(seed: u64, index: u64, percent: u32) -> (Option<Fault>, f64) {
    let mut state = seed ^ index.wrapping_mul(0xA076_1D64_78BD_642F);
    let mut next = || {
        // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    let strikes = next() % 100 < u64::from(percent);
    let which = usize::try_from(next() % 9).expect("below 9");
    #[allow(clippy::cast_precision_loss)] // 16 bits are fine enough
    let place = (next() >> 48) as f64 / 65536.0;
    (strikes.then_some(Fault::ALL[which]), place)
}

#[derive(Debug)]
struct State {
    target: u16,
    seed: u64,
    percent: AtomicU32,
    /// The share of the answers to GET with a wrong bit in their body.
    flips_percent: AtomicU32,
    flips: AtomicU64,
    requests: AtomicU64,
    counts: Mutex<BTreeMap<Fault, usize>>,
}

/// Forwards to one port of the loopback address, one request a connection, and does harm to some of
/// them.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    state: Arc<State>,
}

impl FaultProxy {
    /// Starts forwarding to `target`; this share of the requests meets a fault.
    ///
    /// # Panics
    /// No port is free.
    pub fn start(target: u16, seed: u64, percent: u32) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let state = Arc::new(State {
            target,
            seed,
            percent: AtomicU32::new(percent),
            flips_percent: AtomicU32::new(0),
            flips: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            counts: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // An error is a connection that one of the three ended: part of the play.
                std::thread::spawn(move || serve(client, &state).ok());
            }
        });
        Self { port, state }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on this share of the requests meets a fault; 0 makes it a plain proxy.
    pub fn set_percent(&self, percent: u32) {
        self.state.percent.store(percent, Ordering::SeqCst);
    }

    /// From now on this share of the answers to GET has a wrong bit in its body.
    pub fn set_flips_percent(&self, percent: u32) {
        self.state.flips_percent.store(percent, Ordering::SeqCst);
    }

    /// How many answers had a wrong bit so far.
    pub fn flips(&self) -> u64 {
        self.state.flips.load(Ordering::SeqCst)
    }

    /// How many requests came so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How often each fault was done.
    pub fn counts(&self) -> BTreeMap<Fault, usize> {
        self.state.lock().clone()
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Fault, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, fault: Fault) {
        *self.lock().entry(fault).or_default() += 1;
    }
}

fn serve(mut client: TcpStream, state: &State) -> std::io::Result<()> {
    let Some(head) = read_head(&mut client)? else {
        return Ok(());
    };
    let index = state.requests.fetch_add(1, Ordering::SeqCst);
    let (fault, place) = decide(state.seed, index, state.percent.load(Ordering::SeqCst));
    let length = content_length(&head);
    if let Some(fault) = fault {
        state.done(fault);
    }
    match fault {
        Some(Fault::Unavailable) => {
            discard(&mut client, length)?;
            return answer(client, 503);
        }
        Some(Fault::ResetAtOnce) => return reset(client),
        Some(Fault::Delay) => std::thread::sleep(LONGEST_PAUSE.mul_f64(place)),
        _ => {}
    }

    let mut server = TcpStream::connect(("127.0.0.1", state.target))?;
    server.write_all(&one_request(&head))?;
    if matches!(fault, Some(Fault::ResetUpload | Fault::UnavailableUpload)) {
        copy(&mut client, &mut server, part(length, place))?;
        drop(server);
        return if fault == Some(Fault::ResetUpload) {
            reset(client)
        } else {
            answer(client, 503)
        };
    }
    copy(&mut client, &mut server, length)?;

    let flips = state.flips_percent.load(Ordering::SeqCst);
    // Another seed than that of the faults.
    if let (Some(_), place) = decide(!state.seed, index, flips)
        && fault.is_none()
        && head.starts_with(b"GET ")
    {
        return flip(&mut server, &mut client, place, state);
    }
    match fault {
        Some(Fault::LostAnswer) => {
            std::io::copy(&mut server, &mut std::io::sink())?;
            answer(client, 500)
        }
        Some(Fault::TruncateAnswer | Fault::ResetAnswer | Fault::StallAnswer) => {
            let head = read_head(&mut server)?.unwrap_or_default();
            let whole = head.len() as u64 + content_length(&head);
            let mut answer = std::io::Cursor::new(head).chain(&mut server);
            copy(&mut answer, &mut client, part(whole, place))?;
            match fault {
                Some(Fault::StallAnswer) => {
                    std::thread::sleep(LONGEST_PAUSE.mul_f64(place));
                    std::io::copy(&mut answer, &mut client)?;
                    client.shutdown(Shutdown::Both)
                }
                Some(Fault::ResetAnswer) => reset(client),
                _ => client.shutdown(Shutdown::Both),
            }
        }
        _ => {
            std::io::copy(&mut server, &mut client)?;
            client.shutdown(Shutdown::Both)
        }
    }
}

/// Passes an answer on with a wrong bit in its body, if it has one.
fn flip(
    server: &mut TcpStream,
    client: &mut TcpStream,
    place: f64,
    state: &State,
) -> std::io::Result<()> {
    let head = read_head(server)?.unwrap_or_default();
    let mut body = Vec::new();
    server.read_to_end(&mut body)?;
    let at = part(body.len() as u64, place);
    if let Some(byte) = usize::try_from(at).ok().and_then(|at| body.get_mut(at)) {
        *byte ^= 1;
        state.flips.fetch_add(1, Ordering::SeqCst);
    }
    client.write_all(&head)?;
    client.write_all(&body)?;
    client.shutdown(Shutdown::Both)
}

/// A request's or answer's head with the empty line; `None` where the connection ends before it.
fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 || head.len() > MOST_HEAD {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(head))
}

/// What the head says about the length of the body; the storage clients send no other kind of body.
fn content_length(head: &[u8]) -> u64 {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines()
        .filter_map(|line| line.strip_prefix("content-length:"))
        .find_map(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

/// The head with `Connection: close` after its first line: the engine then ends its answer by
/// ending the connection.
fn one_request(head: &[u8]) -> Vec<u8> {
    let end = head
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .unwrap_or(head.len());
    [&head[..end], b"\r\nConnection: close", &head[end..]].concat()
}

/// Part of a length: at least a byte is missing.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)] // a place between 0 and 1 of a file's size
fn part(length: u64, place: f64) -> u64 {
    ((length as f64 * place) as u64).min(length.saturating_sub(1))
}

/// Copies this number of bytes, or fewer if the input ends.
fn copy(from: &mut impl Read, to: &mut impl Write, mut bytes: u64) -> std::io::Result<()> {
    let mut buffer = [0; CHUNK];
    while bytes > 0 {
        let most = usize::try_from(bytes).unwrap_or(CHUNK).min(CHUNK);
        let read = from.read(&mut buffer[..most])?;
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read])?;
        bytes -= read as u64;
    }
    Ok(())
}

fn discard(client: &mut TcpStream, bytes: u64) -> std::io::Result<()> {
    copy(client, &mut std::io::sink(), bytes)
}

/// An error as S3 and Google Cloud Storage put it.
fn answer(mut client: TcpStream, status: u16) -> std::io::Result<()> {
    let code = if status == 503 {
        "SlowDown"
    } else {
        "InternalError"
    };
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a fault</Message></Error>"
    );
    write!(
        client,
        "HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    client.shutdown(Shutdown::Write)
}

/// Ends the connection with a reset instead of in the orderly way.
fn reset(client: TcpStream) -> std::io::Result<()> {
    set_socket_linger(&client, Some(Duration::ZERO))?;
    drop(client);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Fault, FaultProxy, decide};
    use crate::http;
    use std::collections::BTreeSet;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn the_seed_decides() {
        let run = |seed| {
            (0..500)
                .map(move |index| decide(seed, index, 30))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let faults: BTreeSet<Fault> = run(1).into_iter().filter_map(|(fault, _)| fault).collect();
        assert_eq!(faults.len(), Fault::ALL.len(), "{faults:?}");
        let share = run(1).iter().filter(|(fault, _)| fault.is_some()).count();
        assert!((100..200).contains(&share), "{share} of 500");
        assert!((0..500).all(|index| decide(1, index, 0).0.is_none()));
        assert!((0..500).all(|index| (0.0..1.0).contains(&decide(1, index, 100).1)));
    }

    /// An engine that answers every request with the same bytes.
    fn engine(body: &'static [u8]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) > 0 {
                    head.push(byte[0]);
                }
                let _ = write!(
                    client,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                let _ = client.write_all(body);
            }
        });
        port
    }

    #[test]
    fn without_faults_it_is_a_proxy_and_with_them_it_is_not() {
        let body = &[7; 100_000];
        let proxy = FaultProxy::start(engine(body), 1, 0);
        let url = format!("http://127.0.0.1:{}/", proxy.port());
        for _ in 0..5 {
            assert_eq!(http::get(&url).body, body);
        }
        assert!(proxy.counts().is_empty());

        proxy.set_percent(100);
        let harmed = (0..60)
            .filter(|_| http::try_get(&url).is_none_or(|answer| answer.status != 200))
            .count();
        assert_eq!(proxy.requests(), 65);
        assert_eq!(proxy.counts().values().sum::<usize>(), 60);
        let late = [Fault::Delay, Fault::StallAnswer];
        let late: usize = late
            .iter()
            .filter_map(|fault| proxy.counts().get(fault).copied())
            .sum();
        assert_eq!(harmed, 60 - late, "{:?}", proxy.counts());
    }
}
