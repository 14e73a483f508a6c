//! `nixery verify`.

use std::process::ExitCode;

use anyhow::Result;
use nixery_config::{Arguments, StorageSettings, setup};
use nixery_state::record::{BUILDS, MANIFESTS};
use nixery_storage::BLOBS;
use nixery_storage::verify::{DEFAULT_CONCURRENCY, VerifyOptions, verify};

use crate::errors::FAILURE;
use crate::output;
use crate::progress::{Reporter, Unit};

/// Rehash every blob of a store and check its cache entries.
///
/// Every blob must have the digest it is named by, every cache entry must be JSON.
///
/// Works on a store in use, and on one that is mounted read-only. Entries of other names than
/// Nixery gives are listed and left alone. Exits with 1 when something is
/// corrupt, also when it was deleted.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery verify --storage-path /var/lib/nixery
  nixery verify --storage-path /var/lib/nixery --json | jq .defects
  nixery verify --storage-path /var/lib/nixery --delete-corrupt   the next build makes them anew")]
pub(crate) struct VerifyArgs {
    /// Delete what is corrupt, so that the next build makes it anew
    #[arg(long)]
    delete_corrupt: bool,

    /// Objects read at once
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_CONCURRENCY,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    concurrency: usize,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    // Last: the flags after it would stand under its heading.
    #[command(flatten)]
    storage: Arguments<StorageSettings>,
}

pub(crate) async fn run(args: VerifyArgs) -> Result<ExitCode> {
    let settings = args.storage.settings()?;
    output::warn(&settings.ignored);
    let storage = setup::existing_storage(&settings)?;
    let mut options = VerifyOptions::default();
    options.concurrency = args.concurrency;
    options.delete_corrupt = args.delete_corrupt;
    let mut reporter = Reporter::new(args.quiet);
    let report = verify(&*storage, &[BLOBS, MANIFESTS, BUILDS], &options, |at| {
        let message = format!(
            "{} of {} objects, {} corrupt",
            at.objects_done, at.objects_total, at.defects
        );
        let (done, total) = (at.bytes_done, at.bytes_total);
        reporter.at(Unit::Bytes, "verify", done, total, &message);
    })
    .await;
    reporter.finish();
    let report = report?;
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&report.to_string())?;
    }
    Ok(if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        FAILURE.into()
    })
}
