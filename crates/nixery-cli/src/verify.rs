//! `nixery verify`.

use std::process::ExitCode;

use anyhow::Result;
use nixery_config::{Arguments, StorageSettings};
use nixery_state::record::{BUILDS, MANIFESTS};
use nixery_storage::BLOBS;
use nixery_storage::verify::{DEFAULT_CONCURRENCY, VerifyOptions, verify};

use crate::errors::FAILURE;
use crate::output;
use crate::progress::{Reporter, Unit};
use crate::settings::existing_storage;

/// Check every blob and cache entry of a store.
///
/// A blob must have the digest that is its name. A cache entry must be JSON.
///
/// The store may be in use or mounted read-only. Objects whose names Nixery does not use are listed
/// and left alone. The exit code is 1 when an object is corrupt, even if it was deleted.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  nixery verify --storage-path /var/lib/nixery
  nixery verify --storage-path /var/lib/nixery --json | jq .defects
  nixery verify --storage-path /var/lib/nixery --delete-corrupt   the next build makes them again")]
pub(crate) struct VerifyArgs {
    /// Delete corrupt objects; the next build makes them again
    #[arg(long)]
    delete_corrupt: bool,

    /// Number of objects to read at the same time
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
    let (_, storage) = existing_storage(&args.storage)?;
    let mut options = VerifyOptions::default();
    options.concurrency = args.concurrency;
    options.delete_corrupt = args.delete_corrupt;
    let reporter = Reporter::new(args.quiet);
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
    output::result(args.json, &report, || report.to_string())?;
    Ok(if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        FAILURE.into()
    })
}
