//! `nixery lab plan show`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use nixery_builder::load_cluster_plan;
use nixery_core::{ClusterPlan, PlannedPackage, StorePath, package_key};
use serde::Serialize;
use serde_json::json;

use crate::output;

/// Show a summary of a cluster plan, or the cluster of a package.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery lab plan show plan.nixery
  nixery lab plan show plan.nixery --name glibc-2.42-bin
  nixery lab plan show plan.nixery --json --name glibc | jq -r '.members[].name'")]
pub(crate) struct PlanShowArgs {
    /// The plan, as `nixery lab plan build` writes it: a path or a URL
    #[arg(value_name = "FILE")]
    plan: String,

    /// Show the cluster of a package: its name with or without version, or a store path
    #[arg(long, value_name = "PACKAGE")]
    name: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A cluster with its members.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    name: String,
    cluster: String,
    samples: u32,
    members: Vec<Member>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    name: String,
    /// The number of samples whose closure has it.
    samples: u32,
}

pub(crate) async fn run(args: &PlanShowArgs) -> Result<()> {
    let plan = load_cluster_plan(&args.plan).await?;
    let Some(name) = &args.name else {
        return print(&plan, &args.plan, args.json);
    };
    let cluster = cluster(&plan, name)?;
    output::result(args.json, &cluster, || table(&cluster, plan.samples()))
}

/// Prints a summary of the plan at `location`.
pub(super) fn print(plan: &ClusterPlan, location: &str, json: bool) -> Result<()> {
    let mut sizes = BTreeMap::<String, usize>::new();
    for package in plan.iter() {
        *sizes.entry(package.cluster).or_default() += 1;
    }
    let shared = sizes.values().filter(|&&size| size > 1).count();
    let (revision, names, clusters) = (plan.revision(), plan.len(), plan.clusters());
    let (samples, digest, size) = (plan.samples(), plan.digest(), plan.to_bytes().len());
    let summary = json!({
        "revision": revision,
        "names": names,
        "clusters": clusters,
        // Clusters of several names.
        "shared": shared,
        "samples": samples,
        "digest": digest.to_string(),
        // Bytes of the file.
        "size": size,
    });
    output::result(json, &summary, || {
        format!(
            "{location}\n  made from  {revision}\n  names      {names}, in {clusters} clusters, of which {shared} hold several\n  samples    {samples}\n  digest     {digest}\n  size       {size} bytes"
        )
    })
}

/// Returns the cluster of a package: a name with or without version, or a store path.
fn cluster(plan: &ClusterPlan, name: &str) -> Result<Cluster> {
    let path = StorePath::parse(name).ok();
    let base = path.as_ref().map_or(name, StorePath::name);
    let key = match plan.get(base) {
        Some(_) => base.to_owned(),
        None => package_key(base).into_owned(),
    };
    let Some((id, samples)) = plan.get(&key) else {
        bail!("the plan has no package `{key}`. In images it is grouped as an unknown package");
    };
    let least = plan.cluster_name(id).to_owned();
    let members = plan.iter().filter(|package| package.cluster == least);
    let members = members.map(|PlannedPackage { name, samples, .. }| Member { name, samples });
    Ok(Cluster {
        name: key,
        members: members.collect(),
        cluster: least,
        samples,
    })
}

fn table(cluster: &Cluster, samples: u32) -> String {
    let head = match cluster.members.len() {
        1 => format!("{} is alone", cluster.name),
        2 => format!("{} shares a layer with one other", cluster.name),
        count => format!("{} shares a layer with {} others", cluster.name, count - 1),
    };
    let width = cluster.members.iter().map(|member| member.name.len()).max();
    let width = width.unwrap_or_default();
    let rows = cluster.members.iter().map(|member| {
        let share = f64::from(member.samples) * 100.0 / f64::from(samples.max(1));
        format!(
            "\n  {:<width$}  in {share:.1} % of the samples",
            member.name
        )
    });
    head + &rows.collect::<String>()
}
