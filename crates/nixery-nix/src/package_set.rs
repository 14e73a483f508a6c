//! Builds every package of a package set and asks for its closure: the data for a cluster plan.

use std::collections::HashSet;
use std::path::Path;

use nixery_core::{Architecture, ReferenceGraph, ResolvedSource, StorePath};

use crate::answer::{AttributePath, AttributeValue, parse_attributes};
use crate::build_log::BuildLog;
use crate::cli::strings;
use crate::closure::{self, ClosureError, ClosureStep};
use crate::code::LIST_PACKAGES;
use crate::failure::{RealiseFailure, is_disk_full, realise_failure};
use crate::log_format::NixLog;
use crate::messages::DISK_FULL_TEXT;
use crate::{EvaluatedPackage, Evaluation, Nix, NixCli, NixError, PackageError};

/// Most attributes in one request: Nix frees the memory of an evaluation only when it ends.
const BATCH: usize = 256;
/// Most bytes of their names. The request is one argument of a command, and Linux limits that to
/// 128 KiB.
const BATCH_BYTES: usize = 32 << 10;
/// Most names in an attribute path: a set may contain itself.
const MOST_NAMES: usize = 8;

/// What is reported while a package set is traversed.
#[derive(Debug)]
pub enum PackageSetEvent {
    /// Packages were built. They are the roots of the graph, which is their closure.
    Built(ReferenceGraph),
    /// An attribute is left out.
    LeftOut {
        /// Its name.
        attribute: String,
        /// The reason: it "does not evaluate", "does not build", "has no store path before it is
        /// built", or "is nested too deeply".
        why: &'static str,
    },
    /// How much is done.
    Progress {
        /// Attributes that were evaluated.
        done: usize,
        /// Attributes that are known so far.
        known: usize,
        /// Packages that were built.
        built: usize,
    },
}

/// Traverses a package set as `nix-env` does, with the sets in it that have
/// `recurseForDerivations`, and reports the closures of its packages.
///
/// It evaluates a batch of attributes at a time, builds or downloads the packages, and asks for
/// their closure, so that memory and command lines are bounded. Attributes that do not evaluate
/// (broken, unfree, of other systems) or do not build are left out. What was built stays in Nix's
/// store until its garbage is collected, so a second run takes much less time.
///
/// # Errors
/// The package set does not load, or Nix does not work.
pub async fn every_package(
    nix: &NixCli,
    source: &ResolvedSource,
    architecture: Architecture,
    work_dir: &Path,
    report: &mut (dyn FnMut(PackageSetEvent) + Send),
) -> Result<(), ClosureError> {
    let log = BuildLog::default();
    // All parts are of one revision.
    let source = &nix
        .resolve(source, &log)
        .await
        .map_err(|error| ClosureStep::Evaluate.failed(error))?;
    // At first the package set itself.
    let mut open: Vec<AttributePath> = vec![Vec::new()];
    // Many attributes are other names of a package.
    let mut built_paths: HashSet<StorePath> = HashSet::new();
    let (mut done, mut known, mut built) = (0, 1, 0);
    while !open.is_empty() {
        report(PackageSetEvent::Progress { done, known, built });
        let batch = take_batch(&mut open);
        done += batch.len();
        let mut packages = Vec::new();
        for (attribute, value) in evaluate(nix, source, architecture, batch, &log).await? {
            let why = match value {
                AttributeValue::Package(package) => {
                    if built_paths.insert(package.store_path.clone()) {
                        packages.push(package);
                    }
                    continue;
                }
                AttributeValue::Set(_) if attribute.len() >= MOST_NAMES => "is nested too deeply",
                AttributeValue::Set(attributes) => {
                    known += attributes.len();
                    open.extend(attributes);
                    continue;
                }
                AttributeValue::Fails => "does not evaluate",
                AttributeValue::NoPath => "has no store path before it is built",
                AttributeValue::Other => continue,
            };
            let attribute = attribute.join(".");
            report(PackageSetEvent::LeftOut { attribute, why });
        }
        built += build(nix, packages, work_dir, &log, report).await?;
    }
    report(PackageSetEvent::Progress { done, known, built });
    Ok(())
}

/// Removes attributes from the end, as many as one request may have.
fn take_batch(open: &mut Vec<AttributePath>) -> Vec<AttributePath> {
    let bytes = |attribute: &AttributePath| attribute.iter().map(|name| request_bytes(name)).sum();
    let count = batch_len(open.iter().rev().map(bytes));
    open.split_off(open.len().saturating_sub(count))
}

/// Splits names into parts that fit into one request each, and keeps their order.
pub fn batches(names: &[String]) -> impl Iterator<Item = &[String]> {
    let mut left = names;
    std::iter::from_fn(move || {
        let count = batch_len(left.iter().map(|name| request_bytes(name)));
        let (batch, rest) = left.split_at_checked(count)?;
        left = rest;
        Some(batch).filter(|batch| !batch.is_empty())
    })
}

/// How many attributes, with these numbers of bytes, fit into one request: at least one.
fn batch_len(bytes: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0;
    let fits = |&bytes: &usize| {
        sum += bytes;
        sum <= BATCH_BYTES
    };
    bytes.take(BATCH).take_while(fits).count().max(1)
}

/// Bytes of a name in a request: it has quotes and a comma around it.
fn request_bytes(name: &str) -> usize {
    name.len() + 3
}

/// Evaluates attributes. An error that Nix code cannot catch fails a whole request; it is then
/// repeated for each half, down to the single attribute.
async fn evaluate(
    nix: &NixCli,
    source: &ResolvedSource,
    architecture: Architecture,
    batch: Vec<AttributePath>,
    log: &BuildLog,
) -> Result<Vec<(AttributePath, AttributeValue)>, ClosureError> {
    let mut all = Vec::with_capacity(batch.len());
    let mut parts = vec![batch];
    let of_an_attribute = |error: &NixError| match error {
        NixError::Package(error) => matches!(error, PackageError::Evaluation { .. }),
        error => matches!(
            error,
            NixError::TimedOut { .. } | NixError::EvaluationMemory { .. } | NixError::Killed { .. }
        ),
    };
    while let Some(mut part) = parts.pop() {
        let names = ("attributes", serde_json::json!(part));
        let answer = nix.instantiate(LIST_PACKAGES, source, architecture, names, &[], log);
        let values = answer.await.and_then(|json| parse_attributes(&json, &part));
        match values {
            Ok(values) => all.extend(part.into_iter().zip(values)),
            Err(error) if of_an_attribute(&error) && part.len() > 1 => {
                let half = part.split_off(part.len() / 2);
                parts.extend([half, part]);
            }
            Err(error) if of_an_attribute(&error) && part.iter().any(|names| !names.is_empty()) => {
                let fails = |attribute| (attribute, AttributeValue::Fails);
                all.extend(part.into_iter().map(fails));
            }
            Err(error) => return Err(ClosureStep::Evaluate.failed(error)),
        }
    }
    Ok(all)
}

/// Builds the packages that can be built, reports their graph, and returns their number.
async fn build(
    nix: &NixCli,
    packages: Vec<EvaluatedPackage>,
    work_dir: &Path,
    log: &BuildLog,
    report: &mut (dyn FnMut(PackageSetEvent) + Send),
) -> Result<usize, ClosureError> {
    let gc_roots = tempfile::tempdir_in(work_dir).map_err(ClosureError::GcRoots)?;
    let (built, failed) = realise_each(nix, packages, gc_roots.path(), log)
        .await
        .map_err(|error| ClosureStep::Realise.failed(error))?;
    for package in failed {
        report(PackageSetEvent::LeftOut {
            attribute: package.name,
            why: "does not build",
        });
    }
    if !built.packages.is_empty() {
        let graph = closure::graph(nix, &built, log).await?;
        report(PackageSetEvent::Built(graph));
    }
    Ok(built.packages.len())
}

/// Builds or downloads as many of the packages as possible, and roots them below `gc_roots`. Also
/// returns those that failed, or did not end in time.
///
/// # Errors
/// Nix does not work.
async fn realise_each(
    nix: &NixCli,
    packages: Vec<EvaluatedPackage>,
    gc_roots: &Path,
    log: &BuildLog,
) -> Result<(Evaluation, Vec<EvaluatedPackage>), NixError> {
    let evaluation = Evaluation { packages };
    if evaluation.packages.is_empty() {
        return Ok((evaluation, Vec::new()));
    }
    let mut nix_log = NixLog::new(log);
    let finished = nix
        .run_realise(&evaluation, gc_roots, &["--keep-going"], &mut nix_log)
        .await;
    let problem = match finished {
        Ok(true) => return Ok((evaluation, Vec::new())),
        // A full disk may have failed every package.
        Ok(false) | Err(NixError::TimedOut { .. }) if is_disk_full(&nix_log) => {
            Some(DISK_FULL_TEXT.to_owned())
        }
        Ok(false) => match realise_failure(&nix_log) {
            RealiseFailure::Derivation { .. } => None,
            RealiseFailure::Nix { problem } => Some(problem),
        },
        Err(NixError::TimedOut { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(problem) = problem {
        let detail = nix_log.detail();
        return Err(NixError::Unavailable { problem, detail });
    }
    let missing = missing_outputs(nix, &evaluation, log).await?;
    let (failed, packages): (Vec<_>, _) = evaluation
        .packages
        .into_iter()
        .partition(|package| missing.contains(&package.store_path));
    let built = Evaluation { packages };
    if !built.packages.is_empty() {
        // The failed command has rooted nothing.
        nix.realise(&built, gc_roots, log).await?;
    }
    Ok((built, failed))
}

/// The outputs of the packages that are not in the store.
async fn missing_outputs(
    nix: &NixCli,
    evaluation: &Evaluation,
    log: &BuildLog,
) -> Result<HashSet<StorePath>, NixError> {
    let mut args = strings(["--check-validity", "--print-invalid"]);
    let paths = evaluation.packages.iter();
    args.extend(paths.map(|package| package.store_path.as_str().into()));
    let printed = nix.query(args, log).await?;
    let path = |line| {
        StorePath::parse(line).map_err(|error| NixError::Output {
            command: "nix-store",
            problem: error.to_string(),
        })
    };
    printed.lines().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(count: usize, length: usize) -> Vec<AttributePath> {
        vec![vec!["x".repeat(length)]; count]
    }

    #[test]
    fn batches_are_bounded_and_never_empty() {
        for (length, expected) in [(10, BATCH), (1000, 32), (BATCH_BYTES * 2, 1)] {
            let mut open = attributes(1000, length);
            let (mut batches, mut taken) = (0, 0);
            while !open.is_empty() {
                let batch = take_batch(&mut open);
                assert!(
                    !batch.is_empty() && batch.len() <= expected,
                    "{}",
                    batch.len()
                );
                batches += 1;
                taken += batch.len();
            }
            assert_eq!(taken, 1000);
            assert_eq!(batches, 1000_usize.div_ceil(expected));
        }
    }

    #[test]
    fn names_keep_their_order_in_batches() {
        for (length, expected) in [(10, BATCH), (1000, 32), (BATCH_BYTES, 1)] {
            let names: Vec<String> = (0..600).map(|n| format!("{n:0length$}")).collect();
            let parts: Vec<&[String]> = batches(&names).collect();
            assert_eq!(parts.concat(), names);
            assert_eq!(parts.len(), 600_usize.div_ceil(expected));
        }
        assert_eq!(batches(&[]).count(), 0);
    }
}
