//! What Nix's error messages mean.
//!
//! The texts are those of Nix 2.8 (Debian 12), 2.26 (Debian 13) and 2.30 and later, which words a
//! failed build anew ("Cannot build '…'. Reason: …").

use crate::NixError;
use crate::log_format::NixLog;
use crate::messages::{
    DISK_FULL, NO_SPACE, failed_derivation, output_name, quoted_after, unavailable,
};
use crate::words::client_message;

/// Why `nix-store --realise` failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// This derivation failed.
    Derivation { derivation: String, reason: String },
    /// Nix cannot work here.
    Unavailable { problem: String },
    /// None of the messages is known.
    Unknown { message: String },
}

/// Finds the cause among the messages of a failed realisation: the first derivation that failed
/// by itself, not one that merely depends on it.
pub(super) fn realise_cause(log: &NixLog<'_>) -> Cause {
    let texts = || log.errors.iter().map(|error| error.text.as_str());
    if let Some((derivation, reason)) = failed_derivations(log).next() {
        return Cause::Derivation { derivation, reason };
    }
    let plain = || log.plain.iter().map(String::as_str);
    if let Some(problem) = texts().chain(plain()).find_map(unavailable) {
        return Cause::Unavailable {
            problem: problem.to_owned(),
        };
    }
    // "file '/nix/store/…-x/pipe' has an unsupported type": it is the output of what was built.
    if let Some(derivation) = texts().find_map(|text| log.builder_of(output_name(text)?)) {
        return Cause::Derivation {
            derivation,
            reason: "output-refused".to_owned(),
        };
    }
    let message = texts().next_back().or_else(|| plain().next_back());
    Cause::Unknown {
        message: client_message(message.unwrap_or("Nix gave no reason")),
    }
}

/// The derivations that failed by themselves, each with its reason.
fn failed_derivations(log: &NixLog<'_>) -> impl Iterator<Item = (String, String)> {
    let texts = log.errors.iter().map(|error| error.text.as_str());
    texts
        .filter_map(failed_derivation)
        .map(|(derivation, mut reason)| {
            let disk_full = |line: &String| line.contains(NO_SPACE);
            if reason.starts_with("builder-") && log.builder_tail(&derivation).iter().any(disk_full)
            {
                DISK_FULL.clone_into(&mut reason);
            }
            (derivation, reason)
        })
}

/// Whether the disk was full, so that whatever failed may have failed for that. The word of one builder is not enough:
/// there are tests that write to `/dev/full`.
pub(super) fn is_disk_full(log: &NixLog<'_>) -> bool {
    let full = |(_, reason): &(String, String)| reason == DISK_FULL;
    log.disk_full || failed_derivations(log).filter(full).count() > 1
}

/// The error of a failed `nix-instantiate` for some of `packages`.
pub(super) fn evaluation_error(log: &NixLog<'_>, packages: &[String]) -> NixError {
    let plain_error = || {
        let line = log
            .plain
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix("error: "));
        line.or_else(|| log.plain.back().map(String::as_str))
            .unwrap_or("Nix gave no reason")
    };
    let error = log.errors.last();
    let text = error.map_or_else(plain_error, |error| error.text.as_str());
    let trace: &[String] = error.map_or(&[], |error| &error.trace);

    // Outermost first: a package of the set may itself look up others.
    let package = trace.iter().rev().find_map(|frame| {
        let name = quoted_after(frame, "while evaluating the package ")?;
        packages.iter().find(|package| *package == name).cloned()
    });
    let fetching = trace.iter().any(|frame| frame.contains("while fetching"))
        || ["unable to download", "program 'git' failed"]
            .iter()
            .any(|words| text.contains(words));
    if package.is_none() && fetching {
        // Git speaks for itself on stderr: "fatal: couldn't find remote ref …".
        let git = log.plain.iter().find_map(|line| {
            line.strip_prefix("fatal: ")
                .or_else(|| line.strip_prefix("error: "))
        });
        return NixError::Source {
            message: client_message(git.unwrap_or(text)),
        };
    }
    if package.is_none()
        && let Some(problem) = unavailable(text)
    {
        return NixError::Unavailable {
            problem: problem.to_owned(),
            detail: text.to_owned(),
        };
    }
    NixError::Evaluation {
        package,
        message: client_message(text),
    }
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
