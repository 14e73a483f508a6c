//! Every package of a package set, built, and asked what it needs at run time: what a cluster plan is made from.

use std::collections::HashSet;
use std::path::Path;

use nixery_core::{Architecture, ReferenceGraph, ResolvedSource, StorePath};

use crate::build_log::BuildLog;
use crate::closure::{self, Step, StepError};
use crate::listing::{Attribute, Listed};
use crate::{EvaluatedPackage, NixCli, NixError};

/// Attributes that one run of Nix is asked about: what it has evaluated is gone from memory with it. All that it is
/// told is in its command line.
const BATCH: usize = 256;
/// Most bytes of their names: Linux takes 128 KiB in one argument.
const BATCH_BYTES: usize = 32 << 10;
/// Most names that lead to a package: a set may hold itself.
const MOST_NAMES: usize = 8;

/// What is told while a package set is gone through.
#[derive(Debug)]
pub enum PackageSetEvent {
    /// Some packages with their closure; they are its roots.
    Built(ReferenceGraph),
    /// An attribute is left out.
    LeftOut {
        /// Its name.
        attribute: String,
        /// Why: it "does not evaluate", "does not build", "has no store path before it is built", or "is nested too deeply".
        why: &'static str,
    },
    /// How far it is.
    At {
        /// Attributes that were looked at.
        done: usize,
        /// Attributes that are known so far.
        known: usize,
        /// Packages that were built.
        built: usize,
    },
}

/// Goes through a package set as `nix-env` does, also through the sets in it that have `recurseForDerivations`: a
/// batch of attributes at a time is evaluated, built or fetched, and asked for its closure, so that memory and
/// command lines are bounded. What does not evaluate (broken, unfree, of other systems) or build is left out.
///
/// What was built stays in Nix's store until garbage is collected, so a second run takes much less.
///
/// # Errors
/// The package set does not load, or Nix cannot work.
pub async fn every_package(
    nix: &NixCli,
    source: &ResolvedSource,
    architecture: Architecture,
    work_dir: &Path,
    tell: &mut (dyn FnMut(PackageSetEvent) + Send),
) -> Result<(), StepError> {
    let log = BuildLog::default();
    // The package set itself.
    let mut open: Vec<Attribute> = vec![Vec::new()];
    // Attributes that are other names of a package are many.
    let mut seen: HashSet<StorePath> = HashSet::new();
    let (mut done, mut known, mut built) = (0, 1, 0);
    while !open.is_empty() {
        tell(PackageSetEvent::At { done, known, built });
        let batch = take_batch(&mut open);
        done += batch.len();
        let mut packages = Vec::new();
        for (attribute, listed) in list(nix, source, architecture, batch, &log).await? {
            let mut left_out = |why| {
                let attribute = attribute.join(".");
                tell(PackageSetEvent::LeftOut { attribute, why });
            };
            match listed {
                Listed::Package(package) => {
                    if seen.insert(package.store_path.clone()) {
                        packages.push(package);
                    }
                }
                Listed::Set(_) if attribute.len() >= MOST_NAMES => left_out("is nested too deeply"),
                Listed::Set(attributes) => {
                    known += attributes.len();
                    open.extend(attributes);
                }
                Listed::Fails => left_out("does not evaluate"),
                Listed::NoPath => left_out("has no store path before it is built"),
                Listed::Other => {}
            }
        }
        built += build(nix, packages, work_dir, &log, tell).await?;
    }
    tell(PackageSetEvent::At { done, known, built });
    Ok(())
}

/// The last attributes, as many as one request may have.
fn take_batch(open: &mut Vec<Attribute>) -> Vec<Attribute> {
    let bytes = |attribute: &Attribute| attribute.iter().map(|name| written(name)).sum();
    let count = batch_len(open.iter().rev().map(bytes));
    open.split_off(open.len().saturating_sub(count))
}

/// The names in their order, in parts that one request of Nix has room for.
pub fn batches(names: &[String]) -> impl Iterator<Item = &[String]> {
    let mut left = names;
    std::iter::from_fn(move || {
        let count = batch_len(left.iter().map(|name| written(name)));
        let (batch, rest) = left.split_at_checked(count)?;
        left = rest;
        Some(batch).filter(|batch| !batch.is_empty())
    })
}

/// How many attributes, of so many bytes each, one request has room for: at least one.
fn batch_len(bytes: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0;
    let fits = |&bytes: &usize| {
        sum += bytes;
        sum <= BATCH_BYTES
    };
    bytes.take(BATCH).take_while(fits).count().max(1)
}

/// Bytes of a name in a request: it has quotes and a comma around it.
fn written(name: &str) -> usize {
    name.len() + 3
}

/// What the attributes are. Of those that fail the whole request, halves are asked for, down to the single one.
async fn list(
    nix: &NixCli,
    source: &ResolvedSource,
    architecture: Architecture,
    batch: Vec<Attribute>,
    log: &BuildLog,
) -> Result<Vec<(Attribute, Listed)>, StepError> {
    let mut all = Vec::with_capacity(batch.len());
    let mut parts = vec![batch];
    while let Some(mut part) = parts.pop() {
        match nix.list(source, architecture, &part, log).await {
            Ok(listed) => all.extend(part.into_iter().zip(listed)),
            Err(NixError::Evaluation { .. } | NixError::TimedOut { .. }) if part.len() > 1 => {
                let half = part.split_off(part.len() / 2);
                parts.extend([half, part]);
            }
            Err(NixError::Evaluation { .. } | NixError::TimedOut { .. })
                if part.iter().any(|attribute| !attribute.is_empty()) =>
            {
                all.extend(part.into_iter().map(|attribute| (attribute, Listed::Fails)));
            }
            Err(error) => return Err(Step::Evaluate.failed(error)),
        }
    }
    Ok(all)
}

/// Builds what can be built, and tells its graph; how many these were.
async fn build(
    nix: &NixCli,
    packages: Vec<EvaluatedPackage>,
    work_dir: &Path,
    log: &BuildLog,
    tell: &mut (dyn FnMut(PackageSetEvent) + Send),
) -> Result<usize, StepError> {
    let gc_roots = tempfile::tempdir_in(work_dir).map_err(StepError::GcRoots)?;
    let (built, failed) = nix
        .realise_each(packages, gc_roots.path(), log)
        .await
        .map_err(|error| Step::Realise.failed(error))?;
    for package in failed {
        tell(PackageSetEvent::LeftOut {
            attribute: package.name,
            why: "does not build",
        });
    }
    if !built.is_empty() {
        tell(PackageSetEvent::Built(
            closure::graph(nix, &built, log).await?,
        ));
    }
    Ok(built.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(count: usize, length: usize) -> Vec<Attribute> {
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
