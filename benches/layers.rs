//! Parsing reference graphs and grouping their paths into layers, at 50 to 50,000 paths. `read` is
//! the part of parsing that is JSON.
//!
//! `cargo bench -p nixery-benches --bench layers` runs everything in about two minutes; with `--
//! parse` or `-- group` a part of it. The `baseline` lines are the plain way of doing the same; a
//! table after each group says how many times slower that was in this run. At the end come the
//! promises about both and whether they hold.

mod quick;
mod ratios;
mod verdict;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nixery_benches::{SIZES, baseline, cluster_plan, package_set};
use nixery_core::{
    Clustered, DEFAULT_BUDGET, Dominator, LayerStrategy, PathInfoJson, Popularity, ReferenceGraph,
    Size, StorePath, Weight, to_dot,
};
use nixery_lab::{popularity::PopularityCounter, reference_sink::ReferenceSink};
use quick::quick;
use ratios::Ratios;

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    let mut ratios = Ratios::default();
    for size in SIZES {
        let set = package_set(size);
        group.throughput(Throughput::Bytes(set.graph.len() as u64));
        ratios.compare(
            &mut group,
            "json",
            size,
            || PathInfoJson::parse(black_box(set.path_info.as_bytes())).expect("path information"),
            || baseline::parse(black_box(set.graph.as_bytes())).expect("a graph"),
        );
    }
    group.finish();
    ratios.print();
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let mut ratios = Ratios::default();
    for size in SIZES {
        let set = package_set(size);
        group.throughput(Throughput::Bytes(set.graph.len() as u64));
        ratios.compare(
            &mut group,
            "graph",
            size,
            || ReferenceGraph::parse(black_box(set.graph.as_bytes())).expect("a graph"),
            || {
                let graph = baseline::parse(black_box(set.graph.as_bytes())).expect("a graph");
                graph.numbered().expect("a closed graph")
            },
        );
        let roots: Vec<StorePath> = set
            .roots
            .iter()
            .map(|root| root.parse().expect("a path"))
            .collect();
        group.bench_function(
            BenchmarkId::new("path-info, closure sizes computed", size),
            |b| {
                b.iter(|| {
                    ReferenceGraph::from_path_info(black_box(set.path_info.as_bytes()), &roots)
                        .expect("a graph")
                });
            },
        );
    }
    group.finish();
    ratios.print();
}

fn group(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("group");
    let mut ratios = Ratios::default();
    for size in SIZES {
        let set = package_set(size);
        let graph = ReferenceGraph::parse(set.graph.as_bytes()).expect("a graph");
        let popularity =
            Arc::new(Popularity::from_json(set.popularity.as_bytes()).expect("counts"));
        let strategy = Dominator {
            popularity: Arc::clone(&popularity),
            ..Dominator::default()
        };
        let by_nar_size = Dominator {
            weight: Weight::NarSize,
            ..strategy.clone()
        };
        group.throughput(Throughput::Elements(size as u64));
        ratios.compare(
            &mut group,
            "dominator",
            size,
            || strategy.plan(black_box(&graph), DEFAULT_BUDGET),
            || baseline::group(black_box(&graph), &popularity, DEFAULT_BUDGET.get()),
        );
        group.bench_function(BenchmarkId::new("dominator by NAR size", size), |b| {
            b.iter(|| by_nar_size.plan(black_box(&graph), DEFAULT_BUDGET));
        });
        group.bench_function(BenchmarkId::new("size", size), |b| {
            b.iter(|| Size.plan(black_box(&graph), DEFAULT_BUDGET));
        });
        let clustered = Clustered {
            plan: Arc::new(cluster_plan(&graph)),
        };
        group.bench_function(BenchmarkId::new("plan", size), |b| {
            b.iter(|| clustered.plan(black_box(&graph), DEFAULT_BUDGET));
        });
    }
    group.finish();
    ratios.print();
}

fn other(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("other");
    let set = package_set(5_000);
    let graph = ReferenceGraph::parse(set.graph.as_bytes()).expect("a graph");
    let plan = Dominator::default().plan(&graph, DEFAULT_BUDGET);
    group.bench_function("count popularity/5000", |b| {
        b.iter(|| {
            let mut counter = PopularityCounter::default();
            counter.add_graph(black_box(&graph));
            counter.to_json()
        });
    });
    group.bench_function("read popularity/5000", |b| {
        b.iter(|| Popularity::from_json(black_box(set.popularity.as_bytes())).expect("counts"));
    });
    group.bench_function("draw/5000", |b| b.iter(|| to_dot(black_box(&graph), &plan)));
    group.finish();
}

criterion_group! { name = layers; config = quick(); targets = read, parse, group, other, verdict::print }
criterion_main!(layers);
