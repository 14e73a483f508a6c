//! A registry under load, beside bare servers that answer with the same bytes in the same run:
//! requests and bytes per second, the slowest answers, memory, and whether the ratios that the
//! project promises hold.
//!
//! `scripts/bench`, or `cargo build --release -p nixery-server` and
//! `cargo bench -p nixery-benches --bench load`, takes two minutes and 500 MB of temporary files.
//! It needs `wrk` (`apt-get install wrk`) and no Nix. `NIXERY_SERVER` names another server program,
//! `NIXERY_BENCH_ROUNDS` (5) says how often each load is put on both, in turn; medians count.
//! `-- readers` runs that part alone (`manifests`, `logins`, `blobs`).

mod bare;
mod client;
mod image;
mod readers;
mod servers;
mod wrk;

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use image::Image;
use servers::{Bare, Registry};
use wrk::{Load, Measured, Target};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The parts that an argument chooses; without any, all of them run.
const PARTS: [&str; 4] = [MANIFESTS, LOGINS, BLOBS, READERS];
const MANIFESTS: &str = "manifests";
const LOGINS: &str = "logins";
const BLOBS: &str = "blobs";
const READERS: &str = "readers";

/// A user with a password, from Openwall's test vectors of bcrypt.
const USERS: &str = "bench:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
/// The credentials of that user: `bench:U*U`.
const LOGIN: &str = "Basic YmVuY2g6VSpV";
/// Limits the user, so that each request needs a decision.
const POLICY: &str = r#"
[[allow]]
who = ["bench"]
packages = ["*"]

[[deny]]
who = ["*"]
packages = ["telnet", "netcat*"]
"#;

/// Of every client that is current.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().collect();
    if let [_, flag, what, file, head] = &args[..]
        && flag == bare::FLAG
    {
        return bare::serve(what, file.as_ref(), head.as_ref());
    }
    // Cargo adds it.
    let parts: Vec<_> = args[1..].iter().filter(|arg| *arg != "--bench").collect();
    if let Some(part) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        return Err(format!("there is no part `{part}`, only {}", PARTS.join(", ")).into());
    }
    let chosen = |part| parts.is_empty() || parts.iter().any(|chosen| *chosen == part);
    let rounds = env::var("NIXERY_BENCH_ROUNDS").map_or(Ok(5), |rounds| rounds.parse())?;
    wrk::check()?;
    let folder = tempfile::tempdir()?;
    let program = servers::program()?;
    println!("making an image with a layer of 200 MB …");
    let image = image::make(folder.path())?;
    let mut bench = Bench {
        program: &program,
        folder: folder.path(),
        image,
        rounds,
        verdicts: Verdicts::default(),
    };
    if chosen(MANIFESTS) {
        bench.manifests()?;
    }
    if chosen(LOGINS) {
        bench.logins()?;
    }
    if chosen(BLOBS) {
        bench.blobs()?;
    }
    if chosen(READERS) {
        bench.readers()?;
    }
    println!("\nverdict: {}", bench.verdicts.summary());
    Ok(())
}

/// Each part starts a registry of its own, which has done nothing else.
struct Bench<'a> {
    program: &'a Path,
    folder: &'a Path,
    image: Image,
    rounds: usize,
    verdicts: Verdicts,
}

impl Bench<'_> {
    fn registry(&self) -> Result<Registry> {
        Registry::start(self.program, self.folder)
    }

    fn manifests(&mut self) -> Result<()> {
        let registry = self.registry()?;
        let (port, path) = (registry.port, &self.image.manifest);
        let manifest = client::get(port, path, ACCEPT)?;
        let bare = Bare::start(self.folder, bare::MEMORY, &manifest)?;
        println!(
            "\nmanifest by tag, {} bytes; wrk, 16 connections",
            manifest.body.len()
        );
        let load = Load::new(16, 3);
        let (ours, plain) = load.compare(self.rounds, port, bare.port, path)?;
        let line = |name: &str, run: &Measured| {
            println!(
                "{name:12} {:>9.0} requests/s, 99 % within {:>7.3} ms",
                run.requests, run.p99
            );
        };
        line("bare", &plain);
        line("registry", &ours);
        let rate = ours.requests / plain.requests;
        self.verdicts.at_least("of the bare rate", rate, 0.5);
        let slowest = ours.p99 / plain.p99;
        self.verdicts
            .at_most("times its 99th percentile", slowest, 2.0);
        let idle = registry.memory()?;
        println!("{:12} {idle:>9} kB after the manifests", "server");
        let logged = fs::metadata(registry.log())?.len();
        let label = "access log";
        println!("{label:12} {logged:>9} bytes, as an operator has it");
        Ok(())
    }

    /// Compares manifests with and without a login.
    fn logins(&mut self) -> Result<()> {
        let (users, policy) = (self.folder.join("users"), self.folder.join("policy.toml"));
        fs::write(&users, USERS)?;
        fs::write(&policy, POLICY)?;
        println!("\nmanifest by tag with Basic authentication; wrk, 16 connections");
        let open = self.registry()?;
        let htpasswd = ("NIXERY_HTPASSWD", users.as_path());
        for (name, settings) in [
            ("users", &[htpasswd][..]),
            ("and a policy", &[htpasswd, ("NIXERY_POLICY", &policy)]),
        ] {
            let limited = Registry::start_with(self.program, self.folder, settings)?;
            let target = Target {
                port: limited.port,
                authorization: Some(LOGIN),
            };
            let load = Load::new(16, 3);
            let path = &self.image.manifest;
            let (with, without) = load.compare(self.rounds, target, open.port, path)?;
            for (name, run) in [("no login", &without), (name, &with)] {
                println!("{name:12} {:>9.0} requests/s", run.requests);
            }
            let rate = with.requests / without.requests;
            self.verdicts
                .at_least("of the rate without a login", rate, 0.5);
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<()> {
        let registry = self.registry()?;
        let (port, path) = (registry.port, &self.image.blob);
        println!(
            "\nblob of {} bytes; wrk, 4 connections",
            self.image.blob_bytes
        );
        client::get(port, &self.image.manifest, ACCEPT)?;
        let sent = client::first_send(port, path)?;
        println!("{:12} {:>9.2} GB/s, hashed while it is sent", "first", sent);
        let head = client::head(port, path, ACCEPT)?;
        let bare = Bare::start(
            self.folder,
            bare::FILE,
            &head.with_file(&self.image.blob_file),
        )?;
        let load = Load::new(4, 3);
        let (ours, plain) = load.compare(self.rounds, port, bare.port, path)?;
        for (name, run) in [("bare", &plain), ("registry", &ours)] {
            println!("{name:12} {:>9.2} GB/s", run.bytes / 1e9);
        }
        let rate = ours.bytes / plain.bytes;
        self.verdicts.at_least("of the bare rate", rate, 0.8);
        Ok(())
    }

    fn readers(&mut self) -> Result<()> {
        let registry = self.registry()?;
        client::get(registry.port, &self.image.manifest, ACCEPT)?;
        println!(
            "\n64 readers of a blob, 64 KiB/s each, for the first time since the start and then again"
        );
        for times in ["first", "again"] {
            let before = registry.memory()?;
            let peak = readers::peak(&registry, &self.image.blob)?;
            println!("{times:12} {:>9} kB at most, {before} kB before", peak);
            let more = peak.saturating_sub(before) as f64 / 1000.0;
            self.verdicts.at_most("MB more", more, 64.0);
        }
        Ok(())
    }
}

/// What of the promised figures holds.
#[derive(Default)]
struct Verdicts {
    missed: usize,
}

impl Verdicts {
    fn at_least(&mut self, what: &str, value: f64, wanted: f64) {
        self.tell(what, value, "at least", wanted, value >= wanted);
    }

    fn at_most(&mut self, what: &str, value: f64, wanted: f64) {
        self.tell(what, value, "at most", wanted, value <= wanted);
    }

    fn tell(&mut self, what: &str, value: f64, bound: &str, wanted: f64, holds: bool) {
        self.missed += usize::from(!holds);
        let verdict = if holds { "holds" } else { "MISSED" };
        println!("{:12} {value:>9.2} {what}, {bound} {wanted}: {verdict}", "");
    }

    fn summary(&self) -> String {
        match self.missed {
            0 => "all that is promised holds".to_owned(),
            missed => format!("{missed} of the promises do not hold in this run"),
        }
    }
}
