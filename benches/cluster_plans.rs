//! Making, writing and reading cluster plans, and looking names up in them.
//!
//! `cargo bench -p nixery-benches --bench cluster_plans` takes about a minute. The largest plan, of
//! 30,000 packages with 4,096 samples, is made once and its time printed, stage by stage.

mod quick;

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nixery_benches::package_families;
use nixery_core::ClusterPlan;
use nixery_lab::cluster_plan::{DEFAULT_SAMPLES, DEFAULT_SEED, PathCollection, PlanSample, build};
use nixery_lab::reference_sink::ReferenceSink;
use quick::quick;

/// A package set of so many names.
fn sample(packages: usize) -> PlanSample {
    let mut paths = PathCollection::default();
    paths
        .add_path_info(package_families(packages).as_bytes())
        .expect("path information");
    paths.to_sample(DEFAULT_SAMPLES, DEFAULT_SEED)
}

fn plan(sample: &PlanSample) -> ClusterPlan {
    build(sample, "benchmark".into(), &mut |_| ()).expect("a plan")
}

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cluster plan");
    for packages in [50, 500, 5_000] {
        let sample = sample(packages);
        group.bench_function(BenchmarkId::new("make", packages), |b| {
            b.iter(|| plan(black_box(&sample)));
        });
        let plan = plan(&sample);
        let file = plan.to_bytes();
        group.bench_function(BenchmarkId::new("write", packages), |b| {
            b.iter(|| black_box(&plan).to_bytes());
        });
        group.bench_function(BenchmarkId::new("read", packages), |b| {
            b.iter(|| ClusterPlan::from_bytes(black_box(&file)).expect("a plan"));
        });
        let names: Vec<String> = plan.iter().map(|package| package.name).collect();
        group.bench_function(BenchmarkId::new("look every name up", packages), |b| {
            b.iter(|| names.iter().filter_map(|name| plan.get(name)).count());
        });
    }
    group.finish();
    largest();
}

fn largest() {
    let sample = sample(30_000);
    let (start, mut stage) = (Instant::now(), None);
    println!("30,000 packages, {} samples:", sample.samples.len());
    let plan = build(&sample, "benchmark".into(), &mut |at| {
        if stage.replace(at.stage) != Some(at.stage) {
            println!("  {:>7.2?}  {:?}", start.elapsed(), at.stage);
        }
    });
    let plan = plan.expect("a plan");
    println!(
        "  {:>7.2?}  {} names in {} clusters, {} bytes",
        start.elapsed(),
        plan.len(),
        plan.clusters(),
        plan.to_bytes().len()
    );
}

criterion_group! { name = cluster_plans; config = quick(); targets = plans }
criterion_main!(cluster_plans);
