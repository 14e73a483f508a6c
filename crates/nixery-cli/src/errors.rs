//! What the user reads when a command fails, and its exit code.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use nixery_builder::BuildError;
use nixery_config::ConfigErrors;
use nixery_config::setup;
use nixery_nix::Nix;

use crate::output;

/// The command failed.
pub(crate) const FAILURE: u8 = 1;
/// Wrong flags, variables or arguments. Clap uses the same code.
pub(crate) const USAGE: u8 = 2;
/// 128 and the number of SIGINT, as in shells.
pub(crate) const INTERRUPTED: u8 = 130;

/// Arguments that clap accepts and that do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Returns an error for arguments that do not fit together; its exit code is [`USAGE`].
pub(crate) fn usage(problem: impl Display) -> anyhow::Error {
    Usage(problem.to_string()).into()
}

/// A signal stopped the command.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Prints the end of a failed build's log. Returns the build's error, or the reason why Nix cannot
/// work here at all.
///
/// Nix is only checked when it may be the cause. A registry checks it at its start; for a single
/// image the check takes longer than Nix's part of the build.
pub(crate) async fn build_failure(nix: &dyn Nix, error: Arc<BuildError>) -> anyhow::Error {
    let lines = error.log_tail();
    if !lines.is_empty() {
        output::note("the end of the build's log:");
    }
    for line in lines {
        output::note(&format!("  {line}"));
    }
    if matches!(*error, BuildError::Unavailable(_) | BuildError::Pack(_)) {
        match setup::preflight(nix).await {
            Ok(findings) => {
                for finding in findings {
                    output::note(&format!("warning: {}", setup::describe_finding(&finding)));
                }
            }
            Err(error) => return error.into(),
        }
    }
    error.into()
}

/// Prints the error and returns the exit code. A closed standard output is not an error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if broken_pipe {
        // The reader has read enough: `nixery layers … | head`.
        return ExitCode::SUCCESS;
    }
    print(error);
    if error.is::<Interrupted>() {
        INTERRUPTED.into()
    } else if error.is::<Usage>() || error.is::<ConfigErrors>() {
        USAGE.into()
    } else {
        FAILURE.into()
    }
}

/// Prints an `error:` line, and a `caused by:` line for each cause. An error that lists several
/// problems has one `error:` line for each.
pub(crate) fn print(error: &anyhow::Error) {
    for line in error.to_string().lines() {
        output::note(&format!("error: {line}"));
    }
    for cause in error.chain().skip(1) {
        output::note(&format!("caused by: {cause}"));
    }
}
