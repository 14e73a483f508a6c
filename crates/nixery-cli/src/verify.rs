//! `nixery verify`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use nixery_config::{Arguments, StorageSettings, setup};
use nixery_state::record::{BUILDS, MANIFESTS, verify_records};
use nixery_storage::verify::{DEFAULT_CONCURRENCY, Defect, VerifyOptions, verify};
use nixery_storage::{BLOBS, Key};

use crate::errors::FAILURE;
use crate::output;
use crate::progress::{Reporter, Unit};
use crate::settings::existing_storage;

/// Check every blob and cache entry of a store.
///
/// A blob must have the digest that is its name. A cache entry must be JSON, must be for the key
/// that is its name, and must describe the manifests, the config and the layers that it names;
/// layers are unpacked for this. With `NIXERY_RECORD_KEY`, it must be authentic.
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
    let (settings, storage) = existing_storage(&args.storage)?;
    let secret = setup::record_secret(&settings)?;
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
    let mut report = report?;
    let is_left = |defect: &&Defect| !defect.deleted;
    let corrupt = report.defects.iter().filter(is_left);
    let corrupt: BTreeSet<Key> = corrupt.map(|defect| defect.key).collect();
    let untrue = verify_records(&*storage, secret.as_ref(), &corrupt, |done, total| {
        let message = format!("{done} of {total} layers");
        reporter.at(Unit::Items, "unpack", done, total, &message);
    })
    .await;
    reporter.finish();
    for mut defect in untrue? {
        if !corrupt.contains(&defect.key) {
            defect.deleted = args.delete_corrupt && storage.delete(&defect.key).await?;
            report.defects.push(defect);
        }
    }
    output::result(args.json, &report, || report.to_string())?;
    Ok(if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        FAILURE.into()
    })
}
