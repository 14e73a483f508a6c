//! `nixery gc`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use nixery_config::table::{GC_MAX_AGE, GC_MAX_SIZE, GC_MAX_UNUSED};
use nixery_config::{Arguments, ConfigErrors, StorageSettings, setup};
use nixery_lab::RETENTIONS;
use nixery_state::gc::{GcMode, GcPhase, GcPolicy, GcReport, collect};
use nixery_storage::can_create_exclusively;

use crate::errors::Usage;
use crate::output;
use crate::progress::{Reporter, Unit, bytes};

/// Images listed; machines read the JSON, which has all.
const ROWS: usize = 50;
/// Widest name of an image in the table.
const WIDEST: usize = 40;

/// Drop images nobody uses from a store, and delete the blobs nothing needs.
///
/// Works on a store in use: no pull breaks. An image that goes leaves its blobs for one more grace,
/// for those who are pulling it; the next collection deletes them. It is built again when somebody
/// asks for it. Interrupting or killing a collection harms nothing.
///
/// At least one limit is needed. Use marks are written since the version that has this command: an
/// image that was last pulled from an older one counts as last used when it was built.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery gc --storage-path /var/lib/nixery --max-unused 30d --dry-run
  nixery gc --storage-path /var/lib/nixery --max-unused 30d --max-size 100G
  nixery gc --max-age 90d --json | jq '.dropped[].name'")]
pub(crate) struct GcArgs {
    /// Only show what would go
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

    // Last: the flags after it would stand under its heading.
    #[command(flatten)]
    storage: Arguments<StorageSettings>,
}

pub(crate) async fn run(args: GcArgs) -> Result<ExitCode> {
    let mut errors = ConfigErrors::default();
    let policy = errors.part(args.policy.settings());
    let settings = errors.part(args.storage.settings());
    let (Some(policy), Some(settings)) = (policy, settings) else {
        return Err(errors.into());
    };
    if !policy.has_limit() {
        let [unused, age, size] =
            [GC_MAX_UNUSED, GC_MAX_AGE, GC_MAX_SIZE].map(Arguments::<GcPolicy>::name);
        let message = format!(
            "nothing says what may go, so nothing was deleted. Fix: set {unused}, {age} or {size}"
        );
        return Err(Usage(message).into());
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
            "warning: this store does not create objects exclusively, so nothing keeps a second collection from running at the same time: see that none does",
        );
    }
    let mut reporter = Reporter::new(args.quiet);
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
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&table(&report, policy.grace))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The images that go, what else goes, and the sums.
fn table(report: &GcReport, grace: Duration) -> String {
    let mut lines = Vec::new();
    if !report.dropped.is_empty() {
        lines.push(row("IMAGE", "LAST USE", "SIZE", "FREES", "WHY"));
    }
    for image in report.dropped.iter().take(ROWS) {
        let why = match image.spared {
            true => "stays: it is in use again".to_owned(),
            false => image.reason.to_string(),
        };
        let last_use = ago(report.now, image.last_use);
        let (size, frees) = (bytes(image.size), bytes(image.frees));
        lines.push(row(&cut(&image.name), &last_use, &size, &frees, &why));
    }
    if let more @ 1.. = report.dropped.len().saturating_sub(ROWS) {
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
            "{} cache entries are of a newer version of Nixery: no blob is deleted while they are there; collect with that version",
            report.newer_entries
        ));
    }
    let (would, will) = if report.dry_run {
        ("would be ", "would be")
    } else {
        ("", "will be")
    };
    lines.push(format!(
        "{} of {} images {would}dropped; those that stay need {} ({} before)",
        report.dropped_images(),
        report.images,
        bytes(report.needed_after),
        bytes(report.needed_before),
    ));
    let (blobs, size) = if report.dry_run {
        (report.unneeded_blobs, report.unneeded_bytes)
    } else {
        (report.deleted_blobs, report.freed_bytes)
    };
    let spared = match report.spared_blobs {
        0 => String::new(),
        spared => format!(" ({spared} were needed again meanwhile and stay)"),
    };
    lines.push(format!(
        "{} {would}freed now: {blobs} blobs that nothing needed for {}{spared}",
        bytes(size),
        humantime::format_duration(grace),
    ));
    lines.push(format!(
        "{} {will} freed by a collection after {}: blobs that nothing leads to any more",
        bytes(report.later_bytes),
        humantime::format_duration(grace),
    ));
    let forgotten = match report.dry_run {
        true => report.forgotten,
        false => report.forgotten_deleted,
    };
    if forgotten > 0 {
        lines.push(format!(
            "{forgotten} graphs of dropped images, records of pulls and unused plans {would}forgotten: older than 90 days, or too many"
        ));
    }
    lines
}

fn row(image: &str, last_use: &str, size: &str, frees: &str, why: &str) -> String {
    format!("{image:<WIDEST$}  {last_use:>10}  {size:>10}  {frees:>10}  {why}")
}

/// Long names lose their end.
fn cut(name: &str) -> String {
    if name.chars().count() <= WIDEST {
        return name.to_owned();
    }
    let start: String = name.chars().take(WIDEST - 1).collect();
    format!("{start}…")
}

/// `3 days`, `5 h`: in the largest unit.
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
        assert_eq!(cut("git"), "git");
        assert_eq!(cut(&"ä".repeat(41)).chars().count(), WIDEST);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| ago(now, now - Duration::from_secs(seconds));
        assert_eq!(
            [at(5), at(3599), at(172_799), at(172_800)],
            ["5 s", "59 min", "47 h", "2 days"]
        );
        assert_eq!(ago(now, now + Duration::from_secs(9)), "0 s");
    }
}
