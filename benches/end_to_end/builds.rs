//! One image, cold and warm, beside the baseline.

use std::fs;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

use nixery_benches::baseline_pack;
use nixery_core::{StorePath, StoreRoot};
use serde_json::Value;

use crate::processes::{Ended, run};
use crate::setup::Setup;
use crate::{Result, median, megabytes, seconds};

/// The phases of a build that are Nix's.
const NIX: [&str; 3] = ["evaluate", "realise", "graph"];
/// All of them, in order; what a build does not tell of took no time.
const PHASES: [&str; 8] = [
    "queued", "evaluate", "realise", "graph", "plan", "pack", "assemble", "store",
];

/// Medians of an image.
pub(crate) struct Compared {
    /// A cold build but for Nix's own time, from the start of the program to its end.
    pub(crate) own: Duration,
    pub(crate) baseline: Duration,
    /// Most memory of a cold build, in kB.
    pub(crate) peak: u64,
}

/// A run of `nixery build`.
pub(crate) struct Build {
    pub(crate) ended: Ended,
    report: Value,
}

impl Build {
    /// Builds an image into the store below `folder`.
    pub(crate) fn run(setup: &Setup, packages: &Path, image: &str, folder: &Path) -> Result<Self> {
        let mut command = setup.command("nixery", packages, folder);
        command.args(["build", image, "--output", "store", "--json", "--quiet"]);
        let ended = run(&mut command)?;
        let report = serde_json::from_slice(&ended.stdout)?;
        Ok(Self { ended, report })
    }

    /// The store paths of each layer but the root layer, which has none.
    pub(crate) fn layers(&self) -> Result<Vec<Vec<StorePath>>> {
        let layers = self.report["layers"].as_array().ok_or("no layers")?;
        let mut all = Vec::new();
        for layer in layers {
            let paths = layer["paths"].as_array().ok_or("no paths")?;
            let paths = paths.iter().map(|path| {
                let path = path.as_str().ok_or("a path is a string")?;
                Ok(StorePath::parse(path)?)
            });
            all.push(paths.collect::<Result<Vec<_>>>()?);
        }
        all.retain(|paths| !paths.is_empty());
        Ok(all)
    }

    fn sum(&self, of: &str) -> u64 {
        let layers = self.report["layers"].as_array();
        let sizes = layers.into_iter().flatten();
        sizes.filter_map(|layer| layer[of].as_u64()).sum()
    }

    fn phase(&self, phase: &str) -> Duration {
        Duration::from_millis(self.report["phases"][phase].as_u64().unwrap_or(0))
    }

    fn nix(&self) -> Duration {
        NIX.iter().map(|phase| self.phase(phase)).sum()
    }

    /// All but Nix's own time.
    fn own(&self) -> Duration {
        self.ended.wall.saturating_sub(self.nix())
    }
}

/// Builds an image cold and warm and packs it the plain way, in turn, and prints the medians.
pub(crate) fn compare(setup: &Setup, image: &str, rounds: usize) -> Result<Compared> {
    // So that its store paths are there, and in memory.
    let folder = setup.folder()?;
    let first = Build::run(setup, &setup.packages, image, folder.path())?;
    let written = size_of(folder.path())?;
    drop(folder);
    let layers = first.layers()?;

    let (mut cold, mut warm, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut plain_size = 0;
    for _ in 0..rounds {
        let folder = setup.folder()?;
        cold.push(Build::run(setup, &setup.packages, image, folder.path())?);
        warm.push(Build::run(setup, &setup.packages, image, folder.path())?);
        let (took, size) = baseline(&layers, folder.path())?;
        plain.push(took);
        plain_size = size;
    }
    let baseline = median(&plain, |took| *took)?;
    let by_own: Vec<_> = cold.iter().collect();
    let cold = median(&by_own, |build| build.own())?;
    let warm: Vec<_> = warm.iter().collect();
    let warm = median(&warm, |build| build.ended.wall)?;

    println!(
        "\n{image}: {} layers, {:.1} MB of files",
        layers.len() + 1,
        first.sum("tarSize") as f64 / 1e6
    );
    println!(
        "{:22} {:>9} {:>12} {:>9} {:>10} {:>11}",
        "", "seconds", "of baseline", "peak MB", "layers MB", "written MB"
    );
    let of = |took: Duration| format!("{:.3}", took.as_secs_f64() / baseline.as_secs_f64());
    let line = |name: &str, took: Duration, rest: String| {
        println!("{name:22} {:>9} {:>12} {rest}", seconds(took), of(took));
    };
    let peak = |build: &Build| format!("{:>9}", megabytes(build.ended.peak));
    let plain_size = plain_size as f64 / 1e6;
    line(
        "baseline",
        baseline,
        format!("{:>9} {plain_size:>10.1}", ""),
    );
    let sizes = format!(
        "{} {:>10.1} {:>11.1}",
        peak(cold),
        first.sum("size") as f64 / 1e6,
        written as f64 / 1e6
    );
    line("cold", cold.ended.wall, sizes);
    line("  of it Nix", cold.nix(), String::new());
    line("  everything else", cold.own(), String::new());
    line("warm", warm.ended.wall, peak(warm));
    line("  of it Nix", warm.nix(), String::new());
    for (name, build) in [("cold", cold), ("warm", warm)] {
        let phases = PHASES.map(|phase| format!("{phase} {}", build.phase(phase).as_millis()));
        println!("phases, {name}, ms: {}", phases.join(", "));
    }
    let phases: Duration = PHASES.iter().map(|phase| cold.phase(phase)).sum();
    let around = cold.ended.wall.saturating_sub(phases).as_millis();
    println!("around a cold build (start and end of the program), ms: {around}");
    Ok(Compared {
        own: cold.own(),
        baseline,
        peak: cold.ended.peak,
    })
}

/// Packs the layers the plain way: the time, and the bytes that come out.
fn baseline(layers: &[Vec<StorePath>], scratch: &Path) -> Result<(Duration, u64)> {
    let (start, mut size) = (Instant::now(), 0);
    for layer in layers {
        let out = BufWriter::new(tempfile::tempfile_in(scratch)?);
        size += baseline_pack::pack(layer, &StoreRoot::host(), out)?.0.size;
    }
    Ok((start.elapsed(), size))
}

/// Bytes of the files below a folder.
fn size_of(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() {
            size_of(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(size)
}
