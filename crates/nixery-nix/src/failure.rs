//! Why a command of Nix failed.

use rustix::process::Signal;

use crate::client_text::client_message;
use crate::command::Finished;
use crate::log_format::{NixLog, NixMessage};
use crate::messages::{
    ABORTED, DISK_FULL, NO_SPACE, OUT_OF_MEMORY, describe_signal, failed_derivation, obstacle,
    output_name, quoted_after,
};
use crate::{NixError, PackageError};

/// The text where Nix failed without a message.
const NO_MESSAGE: &str = "Nix gave no reason";

/// Why `nix-store --realise` failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RealiseFailure {
    /// This derivation failed.
    Derivation { derivation: String, reason: String },
    /// Nix cannot work here, or none of its messages is known.
    Nix { problem: String },
}

/// Finds the cause among the messages of a failed realisation: the first derivation that failed
/// by itself, not one that merely depends on it.
pub(crate) fn realise_failure(log: &NixLog<'_>) -> RealiseFailure {
    // A daemon reports a failure after anything that its builder could have written, so the last
    // of its messages is the most reliable one.
    let failure = proven_failures(log).next();
    if let Some((derivation, reason)) = failure.or_else(|| unproven_failures(log).next_back()) {
        return RealiseFailure::Derivation { derivation, reason };
    }
    let texts = || log.errors.iter().map(|error| error.text.as_str());
    let plain = || log.plain.iter().map(String::as_str);
    if let Some(obstacle) = texts().chain(plain()).find_map(obstacle) {
        let problem = obstacle.problem.to_owned();
        return RealiseFailure::Nix { problem };
    }
    // "file '/nix/store/…-x/pipe' has an unsupported type": it is the output of a build.
    if let Some(derivation) = texts().find_map(|text| log.derivation_of(output_name(text)?)) {
        let reason = "output-refused".to_owned();
        return RealiseFailure::Derivation { derivation, reason };
    }
    let message = texts().next_back().or_else(|| plain().next_back());
    RealiseFailure::Nix {
        problem: client_message(message.unwrap_or(NO_MESSAGE)),
    }
}

/// The derivations that failed by themselves according to Nix, each with its reason.
fn proven_failures(log: &NixLog<'_>) -> impl Iterator<Item = (String, String)> {
    let errors = log.errors.iter();
    errors.filter_map(|error| derivation_with_reason(log, error))
}

/// The same according to messages that a builder may have written, if Nix itself reports none.
fn unproven_failures(log: &NixLog<'_>) -> impl DoubleEndedIterator<Item = (String, String)> {
    let any = proven_failures(log).next().is_none();
    let errors = log.unproven.iter().filter(move |_| any);
    errors
        .filter_map(|error| derivation_with_reason(log, error))
        .filter(|(derivation, _)| log.has_derivation(derivation))
}

fn derivation_with_reason(log: &NixLog<'_>, error: &NixMessage) -> Option<(String, String)> {
    let (derivation, mut reason) = failed_derivation(&error.text)?;
    let disk_full = |line: &String| line.contains(NO_SPACE);
    if reason.starts_with("builder-") && log.builder_tail(&derivation).iter().any(disk_full) {
        DISK_FULL.clone_into(&mut reason);
    }
    Some((derivation, reason))
}

/// Returns what ended a command before its time, if something did, as the end of a sentence about
/// it.
pub(crate) fn killed(finished: &Finished, log: &NixLog<'_>) -> Option<String> {
    if finished.status.success() {
        return None;
    }
    let interrupted = || log.interrupted.then_some(Signal::TERM.as_raw());
    if let Some(signal) = finished.killed_by().or_else(interrupted) {
        return Some(format!("was killed by {}", describe_signal(signal)));
    }
    reports_no_memory(log).then(|| "ran out of memory".to_owned())
}

/// Returns whether a command failed because it could not allocate memory, and not because something
/// killed it.
///
/// For a command whose address space is limited, the limit is the likely cause. Linux seldom
/// refuses memory for another reason: where the machine itself is short of it, the kernel kills a
/// process. It does refuse where overcommitting is off, or where a lower limit was set outside. Nix
/// prints the same then.
pub(crate) fn ran_out_of_memory(finished: &Finished, log: &NixLog<'_>) -> bool {
    if finished.status.success() {
        return false;
    }
    match finished.killed_by() {
        None => reports_no_memory(log),
        // Neither Nix nor its garbage collector can report every failed allocation.
        Some(signal) => {
            let says_why = |line: &String| ABORTED.iter().any(|words| line.contains(words));
            signal == Signal::ABORT.as_raw() && log.plain.iter().any(says_why)
        }
    }
}

/// Returns whether the last error is Nix's own about a failed allocation.
fn reports_no_memory(log: &NixLog<'_>) -> bool {
    let last = log.errors.last().or(log.unproven.back());
    last.is_some_and(|error| error.is_bare && error.text == OUT_OF_MEMORY)
}

/// Returns whether the disk was full, so that it may be the cause of every failure. The output of
/// one builder is not enough: there are tests that write to `/dev/full`.
pub(crate) fn is_disk_full(log: &NixLog<'_>) -> bool {
    let full = |(_, reason): &(String, String)| reason == DISK_FULL;
    let failures = proven_failures(log).chain(unproven_failures(log));
    log.disk_full || failures.filter(full).count() > 1
}

/// The error of a failed `nix-instantiate` for some of `packages`.
pub(crate) fn evaluation_error(log: &NixLog<'_>, packages: &[String]) -> NixError {
    let plain_error = || {
        let mut newest_first = log.plain.iter().rev();
        let line = newest_first.find_map(|line| line.strip_prefix("error: "));
        line.or_else(|| log.plain.back().map(String::as_str))
            .unwrap_or(NO_MESSAGE)
    };
    let error = log.errors.last();
    let text = error.map_or_else(plain_error, |error| error.text.as_str());
    let trace: &[String] = error.map_or(&[], |error| &error.trace);

    // Outermost first: a package of the set may itself look up others.
    let package = trace.iter().rev().find_map(|frame| {
        let name = quoted_after(frame, "while evaluating the package ")?;
        packages.iter().find(|package| *package == name).cloned()
    });
    if package.is_some() {
        let message = evaluation_message(text);
        return PackageError::Evaluation { package, message }.into();
    }
    let fetching = trace.iter().any(|frame| frame.contains("while fetching"))
        || text.contains("unable to download")
        || text.contains("program 'git' failed");
    if fetching {
        // Git writes its own message to stderr: "fatal: couldn't find remote ref …".
        let git = log.plain.iter().find_map(|line| {
            line.strip_prefix("fatal: ")
                .or_else(|| line.strip_prefix("error: "))
        });
        let message = client_message(git.unwrap_or(text));
        return PackageError::Source { message }.into();
    }
    match obstacle(text) {
        Some(obstacle) => NixError::Unavailable {
            problem: obstacle.problem.to_owned(),
            detail: text.to_owned(),
        },
        None => NixError::from(PackageError::Evaluation {
            package: None,
            message: evaluation_message(text),
        }),
    }
}

/// The message of a failed evaluation for clients.
fn evaluation_message(text: &str) -> String {
    // Restricted code gets a folder there as its cache, which cannot be made.
    let text = match text.contains("/dev/null") && text.contains("director") {
        true => "fetching is forbidden in restricted mode",
        false => text,
    };
    let message = client_message(text);
    if !text.contains("restricted mode") {
        return message;
    }
    format!(
        "{message}. Fix: have the package set read its own files only; the operator can allow URLs with `allowed-uris` in nix.conf, or turn off NIXERY_RESTRICT_EVAL"
    )
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
