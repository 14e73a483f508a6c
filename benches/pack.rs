//! Packing layers, beside the plain way of doing it in the same run: times, sizes, memory, and
//! whether the ratios that the project promises hold.
//!
//! `cargo bench -p nixery-benches --bench pack` takes some minutes and 3 GB below `target/bench`.
//! `NIXERY_BENCH_ROUNDS` (5) says how often each is done, in turn; medians count. A ratio between
//! two wall-clock times of one run hardly depends on the machine, but it does on what else runs
//! there: compare the ratio of the CPU times, which is printed beside it.

use std::env;
use std::error::Error;
use std::fs;
use std::io::BufWriter;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nixery_benches::baseline_pack;
use nixery_benches::trees::{Trees, store_path};
use nixery_core::{Codec, Packer, StorePath, StoreRoot};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The first argument of the process that measures its own memory.
const MEMORY: &str = "--memory-of";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().collect();
    if let [_, flag, root, number] = &args[..]
        && flag == MEMORY
    {
        return memory_of(Path::new(root), number.parse()?);
    }
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let mut trees = Trees::new(&Path::new(&target).join("bench"))?;
    let large = trees.programs(1, 300_000_000)?;
    let many = trees.programs(60, 200_000_000)?;
    let small = vec![trees.small_files(&large, 20_000)?];
    let one = |paths: &[StorePath]| vec![paths.to_vec()];
    let apart: Vec<Vec<StorePath>> = many.iter().map(|path| vec![path.clone()]).collect();

    let store = trees.store();
    let mut table = Table {
        store: &store,
        scratch: trees.scratch(),
        failed: 0,
    };
    table.title("one layer of 300 MB, programs and libraries");
    table.compare(
        &one(&large),
        &[
            Subject::new(Codec::Gzip, 2, Some(3.0), Some(1.005)),
            Subject::new(Codec::Gzip, 1, Some(1.6), Some(1.005)),
            Subject::new(Codec::GzipSingle, 2, None, Some(1.03)),
            Subject::new(Codec::Zstd, 2, Some(5.5), Some(0.97)),
            Subject::new(Codec::Zstd, 1, None, Some(0.97)),
        ],
    )?;
    table.title("60 layers of 200 MB in all");
    table.compare(
        &apart,
        &[
            Subject::new(Codec::Gzip, 2, Some(3.0), None),
            Subject::new(Codec::Zstd, 2, None, None),
        ],
    )?;
    table.title("20,000 small files, 126 MB");
    table.compare(
        &one(&small),
        &[
            Subject::new(Codec::Gzip, 2, Some(3.0), None),
            Subject::new(Codec::Zstd, 2, None, None),
        ],
    )?;
    let mut failed = table.failed;
    failed += usize::from(!memory(&mut trees, &large)?);
    println!(
        "\nverdict: {}",
        match failed {
            0 => "all that is promised holds".to_owned(),
            failed => format!("{failed} of the promises do not hold in this run"),
        }
    );
    Ok(())
}

/// What is compared with the baseline, and what is promised of it.
struct Subject {
    codec: Codec,
    threads: usize,
    faster: Option<f64>,
    size: Option<f64>,
}

impl Subject {
    fn new(codec: Codec, threads: usize, faster: Option<f64>, size: Option<f64>) -> Self {
        Self {
            codec,
            threads,
            faster,
            size,
        }
    }
}

/// One run of something.
#[derive(Clone, Copy)]
struct Run {
    wall: Duration,
    cpu: Duration,
    size: u64,
}

struct Table<'a> {
    store: &'a StoreRoot,
    scratch: &'a Path,
    failed: usize,
}

impl Table<'_> {
    fn title(&self, title: &str) {
        println!(
            "\n{title}\n{:24} {:>9} {:>9} {:>7} {:>10} {:>12} {:>9}",
            "", "seconds", "faster", "wanted", "less CPU", "bytes", "of those"
        );
    }

    /// Runs the baseline and all subjects in turn, a few times.
    fn compare(&mut self, layers: &[Vec<StorePath>], subjects: &[Subject]) -> Result<()> {
        let rounds = env::var("NIXERY_BENCH_ROUNDS").map_or(Ok(5), |rounds| rounds.parse())?;
        let mut plain = Vec::new();
        let mut ours = vec![Vec::new(); subjects.len()];
        for _ in 0..rounds {
            plain.push(self.run(|scratch, store| {
                let mut size = 0;
                for layer in layers {
                    let out = BufWriter::new(tempfile::tempfile_in(scratch)?);
                    size += baseline_pack::pack(layer, store, out)?.0.size;
                }
                Ok(size)
            })?);
            for (subject, runs) in subjects.iter().zip(&mut ours) {
                runs.push(self.run(|scratch, store| pack(layers, subject, scratch, store))?);
            }
        }
        let plain = median(plain);
        println!(
            "{:24} {:>9.3} {:>9} {:>7} {:>10} {:>12} {:>9}",
            "baseline",
            plain.wall.as_secs_f64(),
            "1.00",
            "",
            "1.00",
            plain.size,
            "1.000"
        );
        for (subject, runs) in subjects.iter().zip(ours) {
            self.line(subject, median(runs), plain);
        }
        Ok(())
    }

    fn line(&mut self, subject: &Subject, ours: Run, plain: Run) {
        let ratio = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
        let faster = ratio(plain.wall, ours.wall);
        let size = ours.size as f64 / plain.size as f64;
        let kept = subject.faster.is_none_or(|wanted| faster >= wanted)
            && subject.size.is_none_or(|wanted| size <= wanted);
        self.failed += usize::from(!kept);
        println!(
            "{:24} {:>9.3} {:>9.2} {:>7} {:>10.2} {:>12} {:>9.4} {}",
            format!("{}, threads: {}", subject.codec, subject.threads),
            ours.wall.as_secs_f64(),
            faster,
            subject
                .faster
                .map_or_else(String::new, |wanted| wanted.to_string()),
            ratio(plain.cpu, ours.cpu),
            ours.size,
            size,
            if kept {
                ""
            } else {
                "  <- NOT WHAT IS PROMISED"
            }
        );
    }

    fn run(&self, work: impl FnOnce(&Path, &StoreRoot) -> Result<u64>) -> Result<Run> {
        let (start, cpu) = (Instant::now(), cpu()?);
        let size = work(self.scratch, self.store)?;
        Ok(Run {
            wall: start.elapsed(),
            cpu: self::cpu()? - cpu,
            size,
        })
    }
}

/// Packs layers as a server does: as many at once as there are threads, each into a file.
fn pack(
    layers: &[Vec<StorePath>],
    subject: &Subject,
    scratch: &Path,
    store: &StoreRoot,
) -> Result<u64> {
    let packer = Packer::new(subject.threads);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut size = 0;
        while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            let out = tempfile::tempfile_in(scratch).map_err(|error| error.to_string())?;
            let packed = packer.pack_layer(layer, store, subject.codec, out);
            size += packed.map_err(|error| error.to_string())?.0.size;
        }
        Ok::<u64, String>(size)
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..subject.threads.min(layers.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut size = work()?;
        for other in others {
            size += other.join().map_err(|_| "a thread panicked")??;
        }
        Ok(size)
    })
}

/// Measures the memory that a 2 GB file takes more than a small one.
fn memory(trees: &mut Trees, of: &[StorePath]) -> Result<bool> {
    let small = trees.large_file(of, 10_000)?;
    let large = trees.large_file(of, 2_000_000_000)?;
    let mut peaks = Vec::new();
    for path in [&small, &large] {
        let number = path.as_str().trim_start_matches("/nix/store/");
        let number = number.split('-').next().ok_or("no hash")?;
        let output = Command::new(env::current_exe()?)
            .arg(MEMORY)
            .arg(trees.scratch())
            .arg(number)
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        peaks.push(String::from_utf8(output.stdout)?.trim().parse::<u64>()?);
    }
    let more = peaks[1].saturating_sub(peaks[0]);
    let kept = more <= 80_000;
    println!(
        "\nmemory: {} kB at most for a file of 2 GB with 2 threads, {} kB for one of 10 kB; {} kB more, at most 80,000 wanted{}",
        peaks[1],
        peaks[0],
        more,
        if kept {
            ""
        } else {
            "  <- NOT WHAT IS PROMISED"
        }
    );
    Ok(kept)
}

/// Packs one path, and prints how much memory this process has had at most, in kB.
fn memory_of(root: &Path, number: usize) -> Result<()> {
    let packer = Packer::new(2);
    let store = StoreRoot::new(root);
    packer.pack_layer(&[store_path(number)], &store, Codec::Gzip, std::io::sink())?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.ok_or("the system does not tell the peak of memory")?;
    println!("{}", peak.trim().trim_end_matches(" kB"));
    Ok(())
}

/// The run of the median wall-clock time.
fn median(mut runs: Vec<Run>) -> Run {
    runs.sort_by_key(|run| run.wall);
    runs[runs.len() / 2]
}

/// CPU time that this process has taken.
fn cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // After the name, which may hold anything: fields 14 and 15 of proc(5), in hundredths of a
    // second.
    let fields = stat.rsplit(')').next().ok_or("no end of the name")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>())
        .sum::<std::result::Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
