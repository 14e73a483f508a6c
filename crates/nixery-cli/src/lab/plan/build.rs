//! `nixery lab plan build`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nixery_core::ClusterPlan;
use nixery_lab::cluster_plan::{
    DEFAULT_SAMPLES, DEFAULT_SEED, MAX_SAMPLES, PathCollection, PlanProgress, PlanSample,
    PlanStage, build,
};

use super::attributes::AttributeArgs;
use super::history::HistoryArgs;
use super::show;
use crate::errors::usage;
use crate::lab::sources::PathSourceArgs;
use crate::output;
use crate::progress::{Reporter, Unit};
use crate::signals::or_interrupted;

/// Make a cluster plan from a package set.
///
/// A source is a directory of .narinfo or .json files, one such file, or the URL of a binary cache.
/// A .json file is the output of `nix path-info --json` or a reference graph. --attrs and --all
/// build packages for their closures. --from-store uses the images that a store has recorded.
///
/// A plan is made from samples of what images contain: first the images of the store, the newest
/// first, then single packages, each with its closure. The packages of a reference graph or an
/// image are its roots. In other sources every path is a package.
///
/// The same sources, --samples, --seed and --revision give the same file, byte for byte.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nix path-info --json --all > all.json; nixery lab plan build all.json --out plan.nixery
  nixery lab plan build --attrs git,htop,python3 --pkgs-path ./packages --out plan.nixery
  nixery lab plan build --all --pkgs-path ./packages --out plan.nixery
  nixery lab plan build --from-store --storage-path /var/lib/nixery --out plan.nixery
  nixery lab plan build ./narinfos --revision nixos-26.05.1234 --out plan.nixery
  xz -d < store-paths.xz > paths
  nixery lab plan build https://cache.nixos.org --store-paths paths --state plan.state --out plan.nixery

With --state, run the same command again to continue a run that was interrupted or failed while reading.
Change the plan of a registry when the whole package set is rebuilt, for example for a new glibc. A
change at another time makes clients fetch 2 to 3 % more, once.")]
pub(crate) struct PlanBuildArgs {
    #[command(flatten)]
    sources: PathSourceArgs,

    /// A JSON file with samples and their packages, instead of sources
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "sources", "store_paths", "state", "parallel", "attempts", "samples", "seed", "from_store",
        "attrs", "attrs_file", "all", "tag",
    ])]
    sample: Option<PathBuf>,

    /// The file for the plan
    #[arg(long, short, value_name = "FILE", value_parser = output::file)]
    out: PathBuf,

    /// What the plan is made from, in a few words: a channel's release, a commit
    /// [default: the names of the sources]
    #[arg(long, value_name = "TEXT")]
    revision: Option<String>,

    /// The number of samples; a smaller package set gives one for each package
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_SAMPLES,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SAMPLES)))]
    samples: u16,

    /// The start value for the random choice of samples
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_SEED)]
    seed: u64,

    /// Print a summary of the plan as JSON
    #[arg(long)]
    json: bool,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    history: HistoryArgs,

    #[command(flatten)]
    attributes: AttributeArgs,
}

pub(crate) async fn run(args: PlanBuildArgs) -> Result<()> {
    let others =
        !args.sources.sources.is_empty() || args.attributes.given() || args.history.from_store;
    if args.sample.is_none() && !others {
        return Err(usage(
            "there is nothing to make a plan of. Fix: name a directory, a file or the URL of a binary cache, or use --attrs, --all, --from-store or --sample",
        ));
    }
    if let Some(warning) = args.attributes.unused() {
        output::note(&format!("warning: {warning}"));
    }
    let revision = match &args.revision {
        Some(revision) => revision.clone(),
        None => describe_sources(&args),
    };
    // Checks the revision before the long work.
    ClusterPlan::new(revision.clone(), 1, []).map_err(usage)?;
    let reporter = Reporter::new(args.quiet);
    let sample = match &args.sample {
        Some(path) => read_sample(path)?,
        None => gather_samples(&args, &reporter).await?,
    };
    let observer = reporter.clone();
    // The work takes up to a minute on its own thread, so that a signal can end the command.
    let work = tokio::task::spawn_blocking(move || {
        build(&sample, revision, &mut |at| report(&observer, at))
    });
    let plan = or_interrupted(work)
        .await?
        .context("the task that makes the plan failed")?
        .context("cannot make a plan")?;
    reporter.finish();
    output::write(Some(&args.out), &plan.to_bytes())?;
    show::print(&plan, &args.out.to_string_lossy(), args.json)
}

fn read_sample(path: &Path) -> Result<PlanSample> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    PlanSample::from_json(&bytes).with_context(|| format!("{} cannot be used", path.display()))
}

/// Reads the sources and draws samples from what they contain.
async fn gather_samples(args: &PlanBuildArgs, reporter: &Reporter) -> Result<PlanSample> {
    let mut paths: PathCollection = args.sources.read("read", reporter).await?;
    if args.attributes.given() {
        args.attributes.add_to(&mut paths, reporter).await?;
    }
    if args.history.from_store {
        or_interrupted(args.history.add_to(&mut paths, reporter)).await??;
    }
    let (packages, dangling) = (paths.packages(), paths.dangling());
    if packages == 0 {
        bail!("the sources have no packages");
    }
    if dangling > 0 {
        reporter.line(&format!(
            "warning: {dangling} references are left out because no source describes the paths that they name"
        ));
    }
    let sample = paths.to_sample(args.samples, args.seed);
    let samples = sample.samples.len();
    let images = match paths.images().min(samples) {
        0 => String::new(),
        images => format!(", {images} of them images"),
    };
    reporter.line(&format!("{samples} samples of {packages} packages{images}"));
    Ok(sample)
}

/// Describes in a few words what the plan is made from.
fn describe_sources(args: &PlanBuildArgs) -> String {
    let name = |source: &str| {
        let source = source.trim_end_matches('/');
        match source.split_once("://") {
            // The plan must not contain a user's name and password.
            Some((_, address)) => address.rsplit('@').next(),
            // Without folders, so that the plan does not depend on where it was made.
            None => source.rsplit('/').next(),
        }
        .unwrap_or_default()
        .to_owned()
    };
    let sample = args.sample.iter().map(|path| name(&path.to_string_lossy()));
    let sources = args.sources.sources.iter().map(|source| name(source));
    let all: Vec<String> = sample
        .chain(sources)
        .chain(args.attributes.described())
        .chain(args.history.from_store.then(|| "history".to_owned()))
        .collect();
    let mut text = all.join(", ");
    if text.len() > 200 {
        text = format!("{} sources", all.len());
    }
    text.retain(|c| !c.is_control());
    text
}

fn report(reporter: &Reporter, at: PlanProgress) {
    let prefix = match at.stage {
        PlanStage::Samples => "samples",
        PlanStage::Closures => "closures",
        PlanStage::Neighbours => "neighbours",
        PlanStage::Pairs => "pairs",
        PlanStage::Merging => "merging",
        _ => "planning",
    };
    reporter.at(Unit::Items, prefix, at.done as u64, at.total as u64, "");
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: PlanBuildArgs,
    }

    fn described(sources: &[&str]) -> String {
        let flags = ["build", "--out", "plan"];
        let command = Command::try_parse_from(flags.iter().chain(sources));
        describe_sources(&command.expect("arguments").args)
    }

    #[rstest]
    #[case(&["/srv/set/", "all.json"], "set, all.json")]
    #[case(&["https://me:secret@cache.example.org/a/"], "cache.example.org/a")]
    #[case(&["a\nb"], "ab")]
    fn sources_are_named_without_folders_and_passwords(
        #[case] sources: &[&str],
        #[case] expected: &str,
    ) {
        assert_eq!(described(sources), expected);
        assert_eq!(described(&["a-long-name-of-a-file.json"; 20]), "20 sources");
    }
}
