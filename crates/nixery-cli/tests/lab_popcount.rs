//! `nixery lab popcount`: from files and from a cache, interrupted and resumed.

#![cfg(feature = "lab")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Sender, channel};

use common::Place;
use rstest::rstest;

fn hash(i: usize) -> String {
    format!("{i:032}")
}

fn narinfo(i: usize) -> String {
    format!(
        "StorePath: /nix/store/{}-p{i}\nNarSize: 1\nReferences: {}-glibc-2.38\n",
        hash(i),
        hash(99)
    )
}

/// A binary cache with paths 0 to 9, of which 3 is missing. Path 8 is answered only once
/// something has been sent to `hold`.
struct Cache {
    url: String,
    go_on: Sender<()>,
    asked_for_8: std::sync::mpsc::Receiver<()>,
}

fn cache() -> Cache {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (go_on, held) = channel::<()>();
    let (asked, asked_for_8) = channel();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (held, asked) = (held.clone(), asked.clone());
            std::thread::spawn(move || {
                let mut stream = stream.expect("a connection");
                let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
                let first = lines.next().expect("a line").expect("a request");
                let _ = lines
                    .take_while(|line| line.as_ref().is_ok_and(|l| !l.is_empty()))
                    .count();
                let name = first.split(['/', '.']).nth(1).expect("a name");
                let i: usize = name.parse().expect("a number");
                if i == 8 {
                    let _ = asked.send(());
                    let _ = held.lock().expect("no panic").recv();
                }
                let (status, body) = match i {
                    3 => ("404 Not Found", String::new()),
                    i => ("200 OK", narinfo(i)),
                };
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}"
                );
            });
        }
    });
    Cache {
        url,
        go_on,
        asked_for_8,
    }
}

fn list(place: &Place, count: usize) {
    let lines: Vec<_> = (0..count)
        .map(|i| format!("/nix/store/{}-p{i}", hash(i)))
        .collect();
    place.write("paths", lines.join("\n"));
}

#[test]
fn files_of_every_kind_are_counted_together() {
    let place = Place::new();
    std::fs::create_dir(place.path("narinfos")).expect("a directory");
    place.write("narinfos/0.narinfo", narinfo(0));
    place.write("narinfos/1.narinfo", narinfo(1));
    let entry = |i: usize| {
        format!(
            r#"{{"path":"/nix/store/{}-p{i}","narSize":1,"references":["/nix/store/{}-glibc-2.38"]}}"#,
            hash(i),
            hash(99)
        )
    };
    // Path 1 again: it counts once.
    place.write("all.json", format!("[{},{}]", entry(1), entry(2)));
    let json = place.run(&["lab", "popcount", "narinfos", "all.json"]).ok();
    assert_eq!(json, "{\"glibc-2.38\":3}\n");
}

#[test]
fn counts_of_a_cache_are_popularity_data() {
    let place = Place::new();
    let cache = cache();
    cache.go_on.send(()).expect("a cache");
    list(&place, 10);
    let flags = ["--store-paths", "paths", "--out", "pop.json"];
    let run = place.run(&[&["lab", "popcount", &cache.url][..], &flags].concat());
    let run = run.noting("9 fetched, 0 counted before, 1 not in the cache");
    assert_eq!(run.ok(), "");
    assert_eq!(place.read("pop.json"), "{\"glibc-2.38\":9}\n");
    let graph = format!(
        r#"[{{"path":"/nix/store/{}-p0","narSize":1,"references":[]}}]"#,
        hash(0)
    );
    place.write("graph.json", graph);
    place
        .run(&["layers", "graph.json", "--pop", "pop.json"])
        .ok();
}

#[test]
fn an_interrupted_count_continues() {
    let place = Place::new();
    let cache = cache();
    list(&place, 9);
    let arguments = [
        "lab",
        "popcount",
        &cache.url,
        "--store-paths",
        "paths",
        "--state",
        "state",
        "--parallel",
        "1",
    ];
    let mut child = place
        .command(&arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    // All before path 8 are counted by now.
    cache.asked_for_8.recv().expect("a request");
    let kill = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.is_ok_and(|status| status.success()));
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert!(place.path("state").exists());

    cache.go_on.send(()).expect("a cache");
    cache.go_on.send(()).expect("a cache");
    let counts = place
        .run(&arguments)
        .noting("continuing from 7 counted paths")
        .noting("1 fetched, 7 counted before, 1 not")
        .ok();
    assert_eq!(counts, "{\"glibc-2.38\":8}\n");
}

#[rstest]
#[case(&["lab", "popcount"], 2, "SOURCE")]
#[case(&["lab", "popcount", "missing"], 1, "cannot read missing")]
#[case(&["lab", "popcount", "text"], 1, "text is neither")]
#[case(&["lab", "popcount", "."], 1, ". is neither a .narinfo file")]
#[case(&["lab", "popcount", "http://127.0.0.1:1"], 2, "--store-paths")]
#[case(&["lab", "popcount", "text", "--store-paths", "paths"], 2, "--store-paths")]
#[case(&["lab", "popcount", "http://127.0.0.1:1", "--store-paths", "text"], 1, "cannot be used")]
#[case(&["lab", "popcount", "http://127.0.0.1:1", "--store-paths", "empty"], 1, "names no store path")]
#[case(&["lab", "popcount", "http://127.0.0.1:1", "--store-paths", "paths", "--attempts", "1"], 1, "cannot fetch http://127.0.0.1:1/")]
#[case(&["lab", "popcount", "http://127.0.0.1:1", "--store-paths", "paths", "--parallel", "0"], 2, "--parallel")]
#[case(&["lab", "popcount", "x.narinfo", "--state", "text"], 1, "this is not the state of an earlier run")]
fn wrong_input_is_named(#[case] arguments: &[&str], #[case] code: i32, #[case] problem: &str) {
    let place = Place::new();
    place.write("text", "hello");
    place.write("empty", "# nothing\n");
    place.write("x.narinfo", narinfo(1));
    list(&place, 1);
    if arguments.contains(&".") {
        std::fs::remove_file(place.path("x.narinfo")).expect("a file");
    }
    place.run(arguments).failed(code, problem);
}
