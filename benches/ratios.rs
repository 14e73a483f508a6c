//! Benchmarks beside the plain way of doing the same, and how many times faster they are.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{Bencher, BenchmarkGroup, BenchmarkId};

/// What was compared in one group of benchmarks.
#[derive(Default)]
pub(crate) struct Ratios(Vec<String>);

impl Ratios {
    /// Runs the benchmark `name` and its `baseline` at a size, in this order.
    pub(crate) fn compare<S, B>(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &str,
        size: usize,
        mut subject: impl FnMut() -> S,
        mut baseline: impl FnMut() -> B,
    ) {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        group.bench_function(BenchmarkId::new(name, size), |bencher| {
            time(bencher, &mut ours, &mut subject);
        });
        group.bench_function(
            BenchmarkId::new(format!("baseline of {name}"), size),
            |bencher| {
                time(bencher, &mut plain, &mut baseline);
            },
        );
        // A filter on the command line may have left out one of them.
        if let (Some(ours), Some(plain)) = (median(&mut ours), median(&mut plain)) {
            self.0.push(format!(
                "{name:>12} {size:>6} {:>12.1?} {:>12.1?} {:>6.1} x",
                ours,
                plain,
                plain.as_secs_f64() / ours.as_secs_f64()
            ));
        }
    }

    /// Prints a line per comparison: the median time of each per iteration, and the ratio.
    pub(crate) fn print(&self) {
        if !self.0.is_empty() {
            println!(
                "{:>12} {:>6} {:>12} {:>12} {:>8}\n{}\n",
                "benchmark",
                "size",
                "time",
                "baseline",
                "faster",
                self.0.join("\n")
            );
        }
    }
}

/// The middle of some times.
pub(crate) fn median(times: &mut [Duration]) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// Measures as [`Bencher::iter`] does, and keeps the times per iteration.
fn time<T>(bencher: &mut Bencher<'_>, times: &mut Vec<Duration>, routine: &mut impl FnMut() -> T) {
    bencher.iter_custom(|iterations| {
        let start = Instant::now();
        for _ in 0..iterations {
            black_box(routine());
        }
        let elapsed = start.elapsed();
        times.push(elapsed.div_f64(iterations as f64));
        elapsed
    });
}
