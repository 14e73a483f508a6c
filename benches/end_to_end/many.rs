//! Many cold requests to one server at once, beside the same images one after another.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::builds::Build;
use crate::processes::{Running, peak_memory};
use crate::setup::Setup;
use crate::{Result, Verdicts, median, megabytes, seconds};

/// Different images, which share some of their layers as images do. Meta-packages stand first in a
/// name.
const IMAGES: [&str; 20] = [
    "shell/strace",
    "hello",
    "htop",
    "git",
    "jq",
    "curl",
    "tree",
    "git/htop",
    "hello/jq",
    "ripgrep",
    "fd",
    "sqlite",
    "tmux",
    "nano",
    "less",
    "python3",
    "vim",
    "nginx",
    "redis",
    "curl/jq",
];
/// How many clients ask for each of them at once.
const CLIENTS: usize = 10;
/// Most memory the server may take, in kB: a bound that grows with neither images nor clients.
const MEMORY: u64 = 200_000;
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(120);

type Digests = BTreeMap<&'static str, String>;

/// One run against a fresh server.
#[derive(Clone, Copy)]
struct Run {
    took: Duration,
    peak: u64,
}

/// Does both in turn, and compares the medians.
pub(crate) fn compare(setup: &Setup, rounds: usize, verdicts: &mut Verdicts) -> Result<()> {
    // So that the store paths are there, and in memory.
    let folder = setup.folder()?;
    Build::run(setup, &setup.packages, &IMAGES.join("/"), folder.path())?;
    drop(folder);

    let (mut one_by_one, mut at_once) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (run, expected) = against_a_server(setup, |port| {
            let mut digests = Digests::new();
            for image in IMAGES {
                digests.insert(image, pull(port, image)?);
            }
            Ok(digests)
        })?;
        one_by_one.push(run);
        let (run, digests) = against_a_server(setup, all_at_once)?;
        at_once.push(run);
        if digests != expected {
            return Err("the images of concurrent builds differ from those built alone".into());
        }
    }
    // Every run must keep the bound, not only the one in the middle.
    let most = at_once.iter().map(|run| run.peak).max();
    let most = most.ok_or("no round was run")?;
    let one_by_one = median(&one_by_one, |run| run.took)?;
    let at_once = median(&at_once, |run| run.took)?;
    let clients = CLIENTS * IMAGES.len();
    println!(
        "\n{} cold images from one server\n{:30} {:>9} {:>9}",
        IMAGES.len(),
        "",
        "seconds",
        "peak MB"
    );
    for (name, run) in [
        ("one after another".to_owned(), one_by_one),
        (format!("{clients} requests at once"), at_once),
    ] {
        let (took, peak) = (seconds(run.took), megabytes(run.peak));
        println!("{name:30} {took:>9} {peak:>9}");
    }
    let ratio = at_once.took.as_secs_f64() / one_by_one.took.as_secs_f64();
    verdicts.say(
        ratio <= 1.0,
        format!("{clients} requests at once for {} cold images: {ratio:.3} of the time one after another, at most 1 wanted", IMAGES.len()),
    );
    verdicts.say(
        most <= MEMORY,
        format!(
            "most memory of the server meanwhile, in any of the {rounds} rounds: {} MB, at most {} wanted",
            megabytes(most),
            megabytes(MEMORY)
        ),
    );
    Ok(())
}

/// Starts a server on an empty store, and measures what `work` does with it.
fn against_a_server(
    setup: &Setup,
    work: impl FnOnce(u16) -> Result<Digests>,
) -> Result<(Run, Digests)> {
    let folder = setup.folder()?;
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let server = setup
        .command("nixery-server", &setup.packages, folder.path())
        .env("PORT", port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut server = Running(server);
    let deadline = Instant::now() + Duration::from_secs(30);
    while get(port, "/v2/").is_err() {
        if server.0.try_wait()?.is_some() || Instant::now() > deadline {
            return Err("the server does not start: try `nixery-server` by hand".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let start = Instant::now();
    let digests = work(port)?;
    let took = start.elapsed();
    let peak = peak_memory(server.0.id()).ok_or("the system does not tell the peak of memory")?;
    Ok((Run { took, peak }, digests))
}

fn all_at_once(port: u16) -> Result<Digests> {
    let ready = Barrier::new(CLIENTS * IMAGES.len());
    let answers: Vec<_> = thread::scope(|scope| {
        let clients = IMAGES.iter().flat_map(|image| [*image; CLIENTS]);
        let clients: Vec<_> = clients
            .map(|image| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    let pulled = pull(port, image).map_err(|error| error.to_string());
                    (image, pulled)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join()).collect()
    });
    let mut digests = Digests::new();
    for answer in answers {
        let (image, digest) = answer.map_err(|_| "a client panicked")?;
        let digest = digest?;
        if *digests.entry(image).or_insert_with(|| digest.clone()) != digest {
            return Err(format!("two clients got different images of {image}").into());
        }
    }
    Ok(digests)
}

/// Asks for an image's manifest as a client does; its digest.
fn pull(port: u16, image: &str) -> Result<String> {
    let mut path = format!("/v2/{image}/manifests/latest");
    for _ in 0..10 {
        let answer = get(port, &path)?;
        let header = |name: &str| {
            answer.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        match answer.split(' ').nth(1) {
            Some("200") => {
                return header("docker-content-digest").ok_or_else(|| "no digest".into());
            }
            Some("307") => path = header("location").ok_or("a redirect to nowhere")?,
            _ => return Err(format!("{image}: {answer}").into()),
        }
    }
    Err(format!("{image}: too many redirects").into())
}

/// The answer to a request, on a connection of its own.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Accept: application/vnd.oci.image.manifest.v1+json\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
