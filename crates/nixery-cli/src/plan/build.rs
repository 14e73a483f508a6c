//! `nixery plan build`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nixery_core::ClusterPlan;
use nixery_lab::cluster_plan::{
    DEFAULT_SAMPLES, DEFAULT_SEED, MAX_SAMPLES, PathCollection, PlanProgress, PlanSample,
    PlanStage, build,
};

use super::attributes::AttributeArgs;
use super::history::HistoryArgs;
use super::show;
use crate::errors::Usage;
use crate::output;
use crate::progress::{Reporter, Unit};
use crate::sources::PathSourceArgs;

/// Make a cluster plan from a package set.
///
/// A source is a directory of .narinfo or .json files, one such file (a narinfo, what
/// `nix path-info --json` prints, or a reference graph, told apart by its contents), or the
/// http:// or https:// address of a binary cache; --attrs and --all build packages and add their
/// closures; --from-store takes what the images of a store held. From all that is found, samples of
/// what images hold are drawn: the images of the store, the newest first, then single packages, each
/// with all that it needs. Of a reference graph, --attrs, --all and images the roots are packages, of
/// other sources every path.
///
/// The same sources, --samples, --seed and --revision give the same file, byte for byte.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nix path-info --json --all > all.json; nixery plan build all.json --out plan.nixery
  nixery plan build --attrs git,htop,python3 --pkgs-path ./packages --out plan.nixery
  nixery plan build --all --pkgs-path ./packages --out plan.nixery
  nixery plan build --from-store --storage-path /var/lib/nixery --out plan.nixery
  nixery plan build ./narinfos --revision nixos-26.05.1234 --out plan.nixery
  xz -d < store-paths.xz > paths
  nixery plan build https://cache.nixos.org --store-paths paths --state plan.state --out plan.nixery

With --state, a run that is interrupted or fails while it reads goes on where it stopped: run it
again. Change the plan of a registry when the package set is rebuilt as a whole (a new glibc): then
it is free, while otherwise clients fetch 2 to 3 % more once.")]
pub(crate) struct PlanBuildArgs {
    #[command(flatten)]
    sources: PathSourceArgs,

    /// Samples that are drawn already, with their packages, as JSON; instead of sources
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "sources", "store_paths", "state", "parallel", "attempts", "samples", "seed", "from_store",
        "attrs", "attrs_file", "all", "tag",
    ])]
    sample: Option<PathBuf>,

    /// Where to write the plan
    #[arg(long, short, value_name = "FILE", value_parser = output::file)]
    out: PathBuf,

    /// What the plan is made from, in a few words: a channel's release, a commit
    #[arg(long, value_name = "TEXT")]
    revision: Option<String>,

    /// Samples to draw; a set with fewer packages gives one for each of them
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_SAMPLES,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SAMPLES)))]
    samples: u16,

    /// Where the draw starts
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_SEED)]
    seed: u64,

    /// Print what came out as JSON
    #[arg(long)]
    json: bool,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    // Last: the flags after it would stand under its heading.
    #[command(flatten)]
    history: HistoryArgs,

    #[command(flatten)]
    attributes: AttributeArgs,
}

pub(crate) async fn run(args: PlanBuildArgs) -> Result<ExitCode> {
    let others =
        !args.sources.sources.is_empty() || args.attributes.given() || args.history.given();
    if args.sample.is_none() && !others {
        let message = "nothing to make a plan of: give a directory, a file, the address of a binary cache, --attrs, --all, --from-store or --sample";
        return Err(Usage(message.into()).into());
    }
    if let Some(warning) = args.attributes.unused() {
        output::note(&format!("warning: {warning}"));
    }
    let revision = match &args.revision {
        Some(revision) => revision.clone(),
        None => revision(
            args.sample.as_deref(),
            &args.sources.sources,
            &args.attributes,
            &args.history,
        ),
    };
    // Whether a plan can hold it is better known before the work than after.
    ClusterPlan::new(revision.clone(), 1, []).map_err(|error| Usage(error.to_string()))?;
    let mut reporter = Reporter::new(args.quiet);
    let sample = match &args.sample {
        Some(path) => read_sample(path)?,
        None => gather(&args, &mut reporter).await?,
    };
    // A minute of work that nobody else waits for; but a signal must still get through.
    let (told, mut heard) = tokio::sync::watch::channel(None);
    let work = tokio::task::spawn_blocking(move || {
        build(&sample, revision, &mut |at| {
            told.send_replace(Some(at));
        })
    });
    let show = async {
        while heard.changed().await.is_ok() {
            let at = *heard.borrow_and_update();
            if let Some(at) = at {
                report(&mut reporter, at);
            }
        }
        work.await
    };
    let plan = tokio::select! {
        built = show => built.context("the making of the plan broke off")?.context("no plan can be made")?,
        () = crate::signals::interrupted() => return Err(crate::errors::Interrupted.into()),
    };
    reporter.finish();
    output::write(Some(&args.out), &plan.to_bytes())?;
    show::print(&plan, &args.out.to_string_lossy(), args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn read_sample(path: &Path) -> Result<PlanSample> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    PlanSample::from_json(&bytes).with_context(|| format!("{} cannot be used", path.display()))
}

/// Everything that the sources describe, and the samples drawn from it.
async fn gather(args: &PlanBuildArgs, reporter: &mut Reporter) -> Result<PlanSample> {
    let mut paths: PathCollection = args.sources.read("read", reporter).await?;
    if args.attributes.given() {
        args.attributes.add_to(&mut paths, reporter).await?;
    }
    if args.history.given() {
        crate::signals::or_interrupted(args.history.add(&mut paths, reporter)).await?;
    }
    let (packages, dangling) = (paths.packages(), paths.dangling());
    if packages == 0 {
        bail!("the sources describe no package");
    }
    if dangling > 0 {
        reporter.line(&format!(
            "warning: {dangling} references lead to paths that no source describes; the plan is made without them"
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

/// What the plan is made from, where nobody says it.
fn revision(
    sample: Option<&Path>,
    sources: &[String],
    attributes: &AttributeArgs,
    history: &HistoryArgs,
) -> String {
    let name = |source: &str| {
        let source = source.trim_end_matches('/');
        match source.split_once("://") {
            // A user's name and password must not travel with the plan.
            Some((_, address)) => address.rsplit('@').next(),
            // Without folders: the plan must not depend on where it was made.
            None => source.rsplit('/').next(),
        }
        .unwrap_or_default()
        .to_owned()
    };
    let sample = sample.map(|path| name(&path.to_string_lossy()));
    let sources = sources.iter().map(|source| name(source));
    let all: Vec<String> = sample
        .into_iter()
        .chain(sources)
        .chain(attributes.described())
        .chain(history.described())
        .collect();
    let mut text = all.join(", ");
    if text.len() > 200 {
        text = format!("{} sources", all.len());
    }
    text.retain(|c| !c.is_control());
    text
}

fn report(reporter: &mut Reporter, at: PlanProgress) {
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
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["/srv/set/", "all.json"], "set, all.json")]
    #[case(&["https://me:secret@cache.example.org/a/"], "cache.example.org/a")]
    #[case(&["a\nb"], "ab")]
    fn sources_are_named_without_folders_and_passwords(
        #[case] sources: &[&str],
        #[case] expected: &str,
    ) {
        let sources: Vec<String> = sources.iter().map(|&source| source.to_owned()).collect();
        assert_eq!(
            revision(
                None,
                &sources,
                &AttributeArgs::default(),
                &HistoryArgs::default()
            ),
            expected
        );
        let many = vec!["a-long-name-of-a-file.json".to_owned(); 20];
        assert_eq!(
            revision(
                None,
                &many,
                &AttributeArgs::default(),
                &HistoryArgs::default()
            ),
            "20 sources"
        );
    }
}
