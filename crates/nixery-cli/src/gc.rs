//! `nixery gc`.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use nixery_config::table::{GC_MAX_AGE, GC_MAX_SHARE, GC_MAX_SIZE, GC_MAX_UNUSED};
use nixery_config::{Arguments, ConfigErrors, StorageBackend, StorageSettings, setup};
// Without the laboratory, recorded pulls and learned plans are left alone.
#[cfg(feature = "lab")]
use nixery_lab::RETENTIONS;
#[cfg(not(feature = "lab"))]
use nixery_state::RETENTIONS;
use nixery_state::gc::{GcMode, GcPhase, GcPolicy, GcReport, collect};
use nixery_storage::can_create_exclusively;

use crate::errors::usage;
use crate::output;
use crate::progress::{Reporter, Unit, bytes};

/// The most images that the table lists; the JSON report has all.
const MAX_ROWS: usize = 50;
/// The most characters of an image's name in the table.
const MAX_NAME: usize = 40;

/// Drop unused images from a store, and delete the blobs that nothing needs.
///
/// The store may be in use: no pull fails. The blobs of a dropped image stay for the time of
/// --grace, for clients that are pulling it. A later collection deletes them. The image is built
/// again when it is requested. A collection may be interrupted or killed at any point.
///
/// At least one limit is needed. The last use of an image that no server marked as used is the time
/// when it was built.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery gc --storage-path /var/lib/nixery --max-unused 30d --dry-run
  nixery gc --storage-path /var/lib/nixery --max-unused 30d --max-size 100G
  nixery gc --max-age 90d --json | jq '.dropped[].name'")]
pub(crate) struct GcArgs {
    /// Only show what would be deleted
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    policy: Arguments<GcPolicy>,

    #[command(flatten)]
    storage: Arguments<StorageSettings>,
}

pub(crate) async fn run(args: GcArgs) -> Result<()> {
    let (policy, settings) = ConfigErrors::both(args.policy.settings(), args.storage.settings())?;
    if !policy.has_limit() {
        let [unused, age, size, share] =
            [GC_MAX_UNUSED, GC_MAX_AGE, GC_MAX_SIZE, GC_MAX_SHARE].map(Arguments::<GcPolicy>::name);
        return Err(usage(format!(
            "no limit is set, so nothing was deleted. Fix: set {unused}, {age}, {size} or {share}"
        )));
    }
    let is_filesystem = matches!(settings.backend, StorageBackend::Filesystem(_));
    if policy.max_share_percent.is_some() && !is_filesystem {
        output::note(&format!(
            "warning: {} is set but not used: the blob store is not on a file system",
            Arguments::<GcPolicy>::name(GC_MAX_SHARE)
        ));
    }
    output::warn(&settings.ignored);
    let storage = setup::existing_storage(&settings)?;
    let mode = if args.dry_run {
        GcMode::DryRun
    } else {
        GcMode::Sweep
    };
    if mode == GcMode::Sweep && matches!(can_create_exclusively(&*storage).await, Ok(false)) {
        output::note(
            "warning: this store cannot create objects exclusively, so two collections can run at the same time. Fix: make sure that no other collection runs on it",
        );
    }
    let reporter = Reporter::new(args.quiet);
    let report = collect(storage, &policy, &RETENTIONS, mode, |at| {
        let (unit, message) = match at.phase {
            GcPhase::List => (Unit::Spinner, format!("{} objects", at.done)),
            _ => (Unit::Items, String::new()),
        };
        reporter.at(unit, at.phase.as_str(), at.done, at.total, &message);
    })
    .await;
    reporter.finish();
    let report = report?;
    output::result(args.json, &report, || table(&report, policy.grace))
}

/// Lists the dropped images, then what else is deleted.
fn table(report: &GcReport, grace: Duration) -> String {
    let mut lines = Vec::new();
    if !report.dropped.is_empty() {
        lines.push(row("IMAGE", "LAST USE", "SIZE", "FREES", "WHY"));
    }
    for image in report.dropped.iter().take(MAX_ROWS) {
        let why = match image.spared {
            true => "stays: it was used again".to_owned(),
            false => image.reason.to_string(),
        };
        let last_use = ago(report.now, image.last_use);
        let (size, frees) = (bytes(image.size), bytes(image.frees));
        lines.push(row(&shortened(&image.name), &last_use, &size, &frees, &why));
    }
    if let more @ 1.. = report.dropped.len().saturating_sub(MAX_ROWS) {
        lines.push(format!("… and {more} more (--json lists all)"));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    lines.extend(sums(report, grace));
    lines.join("\n")
}

fn sums(report: &GcReport, grace: Duration) -> Vec<String> {
    let mut lines = Vec::new();
    if report.newer_entries > 0 {
        lines.push(format!(
            "{} cache entries are from a newer version of Nixery, so no blob is deleted. Fix: collect with that version",
            report.newer_entries
        ));
    }
    let (would, will, blobs, freed, forgotten) = if report.dry_run {
        let (blobs, freed) = (report.unneeded_blobs, report.unneeded_bytes);
        ("would be ", "would be", blobs, freed, report.forgotten)
    } else {
        let (blobs, freed) = (report.deleted_blobs, report.freed_bytes);
        ("", "will be", blobs, freed, report.forgotten_deleted)
    };
    lines.push(format!(
        "{} of {} images {would}dropped; the remaining images need {} ({} before)",
        report.dropped_images(),
        report.images,
        bytes(report.needed_after),
        bytes(report.needed_before),
    ));
    let spared = match report.spared_blobs {
        0 => String::new(),
        spared => format!(" ({spared} others were used again and stay)"),
    };
    lines.push(format!(
        "{} {would}freed now: {blobs} blobs that nothing has needed for {}{spared}",
        bytes(freed),
        humantime::format_duration(grace),
    ));
    lines.push(format!(
        "{} {will} freed by a collection after {}: blobs that nothing needs any more",
        bytes(report.later_bytes),
        humantime::format_duration(grace),
    ));
    if forgotten > 0 {
        lines.push(format!(
            "{forgotten} graphs of dropped images, recorded pulls and unused plans {would}deleted: older than 90 days, or too many"
        ));
    }
    lines
}

fn row(image: &str, last_use: &str, size: &str, frees: &str, why: &str) -> String {
    format!("{image:<MAX_NAME$}  {last_use:>10}  {size:>10}  {frees:>10}  {why}")
}

/// Shortens a name to the width of its column.
fn shortened(name: &str) -> String {
    if name.chars().count() <= MAX_NAME {
        return name.to_owned();
    }
    let start: String = name.chars().take(MAX_NAME - 1).collect();
    format!("{start}…")
}

/// Formats the time since `then` in its largest unit: `3 days`, `5 h`.
fn ago(now: SystemTime, then: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times_fit_their_columns() {
        assert_eq!(shortened("git"), "git");
        assert_eq!(shortened(&"ä".repeat(41)).chars().count(), MAX_NAME);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| ago(now, now - Duration::from_secs(seconds));
        assert_eq!(
            [at(5), at(3599), at(172_799), at(172_800)],
            ["5 s", "59 min", "47 h", "2 days"]
        );
        assert_eq!(ago(now, now + Duration::from_secs(9)), "0 s");
    }
}
