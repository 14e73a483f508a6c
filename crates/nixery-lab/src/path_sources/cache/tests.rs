//! Tests with a small HTTP server on loopback that fails as requested.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use nixery_storage::error_chain;
use rstest::rstest;

use super::*;
use crate::popularity::PopularityCounter;

const GLIBC: &str = "00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38";

fn hash(i: usize) -> String {
    format!("{i:032}")
}

fn narinfo(i: usize) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nStorePath: /nix/store/{}-p{i}\nNarSize: 1\nReferences: {GLIBC}\n",
        hash(i)
    )
}

fn status(line: &str) -> String {
    format!("HTTP/1.1 {line}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}

/// Serves what `answer` says for the `n`th request (from 1) of each path. Ends with the process.
struct Server {
    url: String,
    requests: Arc<Mutex<HashMap<String, usize>>>,
}

impl Server {
    fn start(answer: impl Fn(&str, usize) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/cache/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(HashMap::new()));
        let (counts, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (counts, answer) = (Arc::clone(&counts), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream.unwrap(), &counts, &*answer));
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> usize {
        self.requests.lock().unwrap().values().sum()
    }

    fn requests_for(&self, path: &StorePath) -> usize {
        let file = format!("{}.narinfo", path.hash_part());
        self.requests
            .lock()
            .unwrap()
            .get(&file)
            .copied()
            .unwrap_or(0)
    }
}

fn serve(
    mut stream: TcpStream,
    counts: &Mutex<HashMap<String, usize>>,
    answer: &(impl Fn(&str, usize) -> String + ?Sized),
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let _headers = lines
        .take_while(|line| line.as_ref().is_ok_and(|l| !l.is_empty()))
        .count();
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let path = path.strip_prefix("/cache/").unwrap().to_owned();
    let nth = {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(path.clone()).or_default();
        *count += 1;
        *count
    };
    let _ = stream.write_all(answer(&path, nth).as_bytes());
}

fn wanted(count: usize) -> Vec<StorePath> {
    let lines: Vec<_> = (0..count).map(hash).collect();
    parse_wanted_paths(&lines.join("\n")).unwrap()
}

fn index(path: &str) -> usize {
    path.strip_suffix(".narinfo").unwrap().parse().unwrap()
}

fn cache(server: &Server, attempts: u32) -> BinaryCache {
    let options = CacheOptions {
        parallel: 4,
        attempts,
    };
    BinaryCache::new(&server.url, options).unwrap()
}

#[tokio::test]
async fn everything_is_counted_and_missing_paths_are_skipped() {
    let server = Server::start(|path, _| match index(path) {
        i if i % 10 == 3 => status("404 Not Found"),
        i if i % 10 == 7 => status("403 Forbidden"),
        i => narinfo(i),
    });
    let mut counter = PopularityCounter::default();
    let mut calls = Vec::new();
    let done = cache(&server, 1)
        .read(&mut counter, &wanted(50), None, |at| calls.push(*at))
        .await
        .unwrap();
    assert_eq!((done.wanted, done.fetched, done.missing), (50, 40, 10));
    assert_eq!((calls.len(), calls.last()), (51, Some(&done)));
    assert_eq!(counter.to_json(), br#"{"glibc-2.38":40}"#);
}

#[tokio::test]
async fn failures_are_tried_again() {
    let server = Server::start(|path, nth| match (index(path) % 4, nth) {
        (0, 1) => status("503 Service Unavailable"),
        (1, 1) => status("429 Too Many Requests\r\nRetry-After: 0"),
        (2, 1) => "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nStorePath: cut".to_owned(),
        (3, 1) => String::new(),
        _ => narinfo(index(path)),
    });
    let mut counter = PopularityCounter::default();
    let done = cache(&server, 3)
        .read(&mut counter, &wanted(8), None, |_| ())
        .await
        .unwrap();
    assert_eq!((done.fetched, done.missing), (8, 0));
    assert_eq!(server.requests(), 16);
}

#[rstest]
#[case::gives_up(|_: &str, _| status("500 Internal Server Error"), "(2 attempts): the cache answers 500", 2)]
#[case::refused(|_: &str, _| status("401 Unauthorized"), "(1 attempts): the cache answers 401", 1)]
#[case::no_narinfo(|_: &str, _| "HTTP/1.1 200 OK\r\n\r\n<html>".to_owned(), "cannot be used", 1)]
#[case::too_long(|_: &str, _| format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20)), "over 1 MiB", 1)]
#[tokio::test]
async fn an_address_that_cannot_be_fetched_is_named(
    #[case] answer: fn(&str, usize) -> String,
    #[case] problem: &str,
    #[case] requests: usize,
) {
    let server = Server::start(answer);
    let mut counter = PopularityCounter::default();
    let error = cache(&server, 2)
        .read(&mut counter, &wanted(1), None, |_| ())
        .await
        .unwrap_err();
    let message = error_chain(&error);
    assert!(message.contains(problem), "{message}");
    assert!(
        message.contains(&format!("/cache/{}.narinfo", hash(0))),
        "{message}"
    );
    assert_eq!(server.requests(), requests);
}

#[tokio::test]
async fn a_count_that_failed_continues_from_its_state() {
    let server = Server::start(|path, nth| match (index(path), nth) {
        (30, 1) => status("401 Unauthorized"),
        (i, _) => narinfo(i),
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut state = StateFile::new(&path);
    let mut counter: PopularityCounter = state.load().unwrap();
    let wanted = wanted(40);
    let first = cache(&server, 1)
        .read(&mut counter, &wanted, Some(&mut state), |_| ())
        .await;
    assert!(first.is_err());

    let mut state = StateFile::new(&path);
    let mut counter: PopularityCounter = state.load().unwrap();
    let (kept, left): (Vec<_>, Vec<_>) = wanted.iter().partition(|path| counter.contains(path));
    assert!(kept.len() >= 20, "only {} were kept", kept.len());
    let done = cache(&server, 1)
        .read(&mut counter, &wanted, Some(&mut state), |_| ())
        .await
        .unwrap();
    assert_eq!((done.known_before, done.fetched), (kept.len(), left.len()));
    // Of the others, requests that the failure cut off may still be arriving.
    for path in kept {
        assert_eq!(server.requests_for(path), 1, "{path:?} was fetched again");
    }
    assert_eq!(counter.to_json(), br#"{"glibc-2.38":40}"#);
}

#[test]
fn lists_of_paths_are_read() {
    let hash = "3n58xw4373jp0ljirf06d8077j15pc4j";
    let text = format!(
        "# a comment\n\n/nix/store/{hash}-hello-2.12\n{hash}\n{hash}-hello\n  {GLIBC}  what follows\n"
    );
    let wanted = parse_wanted_paths(&text).unwrap();
    let hashes: Vec<_> = wanted.iter().map(StorePath::hash_part).collect();
    assert_eq!(hashes, [hash, &GLIBC[..32]]);
    for wrong in ["hello", "/nix/store", "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"] {
        let error = parse_wanted_paths(&format!("\n{wrong}")).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}

#[rstest]
#[case("cache.example.org")]
#[case("ftp://cache.example.org")]
#[case("http://")]
fn addresses_are_checked(#[case] url: &str) {
    let error = BinaryCache::new(url, CacheOptions::default()).unwrap_err();
    assert!(error.to_string().contains(url), "{error}");
}
