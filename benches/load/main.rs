//! A registry under load, beside bare servers that answer with the same bytes in the same run: requests and bytes per
//! second, the slowest answers, memory, and whether the ratios that the project promises hold.
//!
//! `scripts/bench`, or `cargo build --release -p nixery-server` and
//! `cargo bench -p nixery-benches --bench load`, takes two minutes and 500 MB of temporary files. It needs `wrk`
//! (`apt-get install wrk`) and no Nix. `NIXERY_SERVER` names another server program, `NIXERY_BENCH_ROUNDS` (5) says
//! how often each load is put on both, in turn; medians count.

mod bare;
mod client;
mod image;
mod readers;
mod servers;
mod wrk;

use std::env;
use std::error::Error;
use std::fs;

use servers::{Bare, Registry};
use wrk::{Load, Measured};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Of every client that is current.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().collect();
    if let [_, flag, what, file, head] = &args[..]
        && flag == bare::FLAG
    {
        return bare::serve(what, file.as_ref(), head.as_ref());
    }
    let rounds = env::var("NIXERY_BENCH_ROUNDS").map_or(Ok(5), |rounds| rounds.parse())?;
    wrk::check()?;
    let folder = tempfile::tempdir()?;
    let program = servers::program()?;
    println!("making an image with a layer of 200 MB …");
    let image = image::make(folder.path())?;
    let registry = Registry::start(&program, folder.path())?;
    let mut verdicts = Verdicts::default();

    let manifest = client::get(registry.port, &image.manifest, ACCEPT)?;
    let bare = Bare::start(folder.path(), bare::MEMORY, &manifest)?;
    println!(
        "\nmanifest by tag, {} bytes; wrk, 16 connections",
        manifest.body.len()
    );
    let load = Load::new(16, 3);
    let (ours, plain) = load.compare(rounds, registry.port, bare.port, &image.manifest)?;
    let line = |name: &str, run: &Measured| {
        println!(
            "{name:12} {:>9.0} requests/s, 99 % within {:>7.3} ms",
            run.requests, run.p99
        );
    };
    line("bare", &plain);
    line("registry", &ours);
    verdicts.at_least("of the bare rate", ours.requests / plain.requests, 0.6);
    verdicts.at_most("times its 99th percentile", ours.p99 / plain.p99, 2.0);
    drop(bare);

    println!("\nblob of {} bytes; wrk, 4 connections", image.blob_bytes);
    let idle = registry.memory()?;
    let sent = client::first_send(registry.port, &image.blob)?;
    println!("{:12} {:>9.2} GB/s, hashed while it is sent", "first", sent);
    let head = client::head(registry.port, &image.blob, ACCEPT)?;
    let bare = Bare::start(folder.path(), bare::FILE, &head.with_file(&image.blob_file))?;
    let load = Load::new(4, 3);
    let (ours, plain) = load.compare(rounds, registry.port, bare.port, &image.blob)?;
    for (name, run) in [("bare", &plain), ("registry", &ours)] {
        println!("{name:12} {:>9.2} GB/s", run.bytes / 1e9);
    }
    verdicts.at_least("of the bare rate", ours.bytes / plain.bytes, 0.8);
    drop(bare);

    // Of a process that has done nothing else.
    drop(registry);
    let registry = Registry::start(&program, folder.path())?;
    client::get(registry.port, &image.manifest, ACCEPT)?;
    println!(
        "\n64 readers of a blob, 64 KiB/s each, for the first time since the start and then again"
    );
    for times in ["first", "again"] {
        let before = registry.memory()?;
        let peak = readers::peak(&registry, &image.blob)?;
        println!("{times:12} {:>9} kB at most, {before} kB before", peak);
        verdicts.at_most("MB more", peak.saturating_sub(before) as f64 / 1000.0, 64.0);
    }
    println!("{:12} {idle:>9} kB after the manifests", "server");
    let logged = fs::metadata(registry.log())?.len();
    println!(
        "{:12} {logged:>9} bytes, as an operator has it",
        "access log"
    );
    println!("\nverdict: {}", verdicts.summary());
    Ok(())
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
