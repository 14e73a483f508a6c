//! What is promised of large graphs, measured side by side and judged.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use nixery_benches::{baseline, cluster_plan, dense_package_set};
use nixery_core::{
    Clustered, DEFAULT_BUDGET, Dominator, LayerStrategy, PathInfoJson, Popularity, ReferenceGraph,
    Size,
};

use crate::ratios::median;

/// Rounds, in each of which everything runs once: what slows the machine down slows all of it.
const ROUNDS: usize = 15;

/// References to a path: as in captured graphs of nixpkgs, as in Debian's package lists, and as in
/// the other benchmarks.
const DENSITIES: [(u64, &str); 3] = [
    (3, "2 references a path"),
    (6, "5 references a path"),
    (10, "9 references a path"),
];

/// Prints the measured ratios beside the promised ones. Freeing the result is part of the time, as
/// in the other benchmarks.
pub(crate) fn print(_: &mut Criterion) {
    // A filter on the command line asks for something else, unless it asks for this.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    if filter.is_some_and(|filter| filter != "verdict")
        || arguments.iter().any(|a| a == "--list" || a == "--test")
    {
        return;
    }
    for (density, words) in DENSITIES {
        let (small, large) = (Case::new(5_000, density), Case::new(50_000, density));
        let (mut small_runs, mut large_runs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            small_runs.push(small.run());
            large_runs.push(large.run());
        }
        let (small, large) = (Times::medians(&small_runs), Times::medians(&large_runs));
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        println!(
            "50,000 paths, {words}: owned strings {:.1?}, checked and numbered {:.1?}; ours: read {:.1?}, parsed {:.1?}, grouped by `dominator` {:.1?}, `size` {:.1?}, `plan` {:.1?}",
            large.owned,
            large.owned_numbered,
            large.read,
            large.parse,
            large.group,
            large.size,
            large.plan
        );
        let verdict = |what: &str, value: f64, holds: bool| {
            let holds = if holds { "HOLDS" } else { "DOES NOT HOLD" };
            println!("  {what}: {value:.2}  {holds}");
        };
        let faster = ratio(large.owned, large.read);
        verdict(
            "the JSON is read at least 2.5 times as fast as into owned strings",
            faster,
            faster >= 2.5,
        );
        println!(
            "  read, checked, sorted and numbered: {:.2} times as fast as owned strings to the same end, {:.2} times as fast as owned strings alone",
            ratio(large.owned_numbered, large.parse),
            ratio(large.owned, large.parse)
        );
        let share = ratio(large.after_reading(), large.owned);
        verdict(
            "checked, numbered and grouped in at most 0.8 of the time of reading owned strings",
            share,
            share <= 0.8,
        );
        println!(
            "  ten times the paths take owned strings {:.1} times as long, and reading, checking and numbering together {:.1} times",
            ratio(large.owned, small.owned),
            ratio(large.parse, small.parse)
        );
        for (what, small, large) in [
            ("read", small.read, large.read),
            ("grouped", small.group, large.group),
        ] {
            let growth = ratio(large, small);
            verdict(
                &format!("ten times the paths are {what} in at most 14 times the time"),
                growth,
                growth <= 14.0,
            );
        }
        for (strategy, took) in [("size", large.size), ("plan", large.plan)] {
            let milliseconds = took.as_secs_f64() * 1000.0;
            verdict(
                &format!("grouped by `{strategy}` in at most 100 milliseconds"),
                milliseconds,
                milliseconds <= 100.0,
            );
        }
    }
}

/// How long each took.
struct Times {
    owned: Duration,
    owned_numbered: Duration,
    read: Duration,
    parse: Duration,
    group: Duration,
    size: Duration,
    plan: Duration,
}

impl Times {
    /// What is done besides reading JSON.
    fn after_reading(&self) -> Duration {
        self.parse.saturating_sub(self.read) + self.group
    }

    fn medians(runs: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> Duration| {
            let mut times: Vec<Duration> = runs.iter().map(of).collect();
            median(&mut times).unwrap_or_default()
        };
        Self {
            owned: middle(|run| run.owned),
            owned_numbered: middle(|run| run.owned_numbered),
            read: middle(|run| run.read),
            parse: middle(|run| run.parse),
            group: middle(|run| run.group),
            size: middle(|run| run.size),
            plan: middle(|run| run.plan),
        }
    }
}

/// A graph of one size.
struct Case {
    json: String,
    /// The same paths as `nix path-info` prints them.
    path_info: String,
    graph: ReferenceGraph,
    strategy: Dominator,
    clustered: Clustered,
}

impl Case {
    fn new(paths: usize, density: u64) -> Self {
        let set = dense_package_set(paths, density);
        let popularity = Popularity::from_json(set.popularity.as_bytes()).expect("counts");
        let graph = ReferenceGraph::parse(set.graph.as_bytes()).expect("a graph");
        Self {
            clustered: Clustered {
                plan: Arc::new(cluster_plan(&graph)),
            },
            graph,
            path_info: set.path_info,
            json: set.graph,
            strategy: Dominator {
                popularity: Arc::new(popularity),
                ..Dominator::default()
            },
        }
    }

    /// Runs everything once. Each finds the processor's caches as the one before left them: a
    /// server parses a graph once, too.
    fn run(&self) -> Times {
        let json = black_box(self.json.as_bytes());
        let path_info = black_box(self.path_info.as_bytes());
        Times {
            owned: time(|| baseline::parse(json).expect("a graph")),
            owned_numbered: time(|| {
                let graph = baseline::parse(json).expect("a graph");
                graph.numbered().expect("a closed graph")
            }),
            read: time(|| PathInfoJson::parse(path_info).expect("path information")),
            parse: time(|| ReferenceGraph::parse(json).expect("a graph")),
            group: time(|| self.strategy.plan(black_box(&self.graph), DEFAULT_BUDGET)),
            size: time(|| Size.plan(black_box(&self.graph), DEFAULT_BUDGET)),
            plan: time(|| self.clustered.plan(black_box(&self.graph), DEFAULT_BUDGET)),
        }
    }
}

/// Freeing the result included.
fn time<T>(run: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    drop(black_box(run()));
    start.elapsed()
}
