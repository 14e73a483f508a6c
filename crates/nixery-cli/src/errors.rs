//! What the user reads when something fails, and the exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use nixery_builder::BuildError;
use nixery_config::ConfigErrors;
use nixery_config::setup;
use nixery_nix::Nix;

use crate::output;

/// It failed.
pub(crate) const FAILURE: u8 = 1;
/// Wrong flags, variables or arguments; clap uses the same.
pub(crate) const USAGE: u8 = 2;
/// 128 and the number of SIGINT, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Arguments that fit together for clap but not for us.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The user stopped us.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// A failed build.
#[derive(Debug)]
pub(crate) struct BuildFailure(pub(crate) Arc<BuildError>);

impl fmt::Display for BuildFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BuildFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Prints the end of a failed build's log and gives its error, or what keeps Nix from working here: that tells
/// more.
///
/// Nix is tried out where it may be what is in the way. A registry does so at its start; for one image that
/// takes longer than Nix's part of a build, so it waits until one has failed.
pub(crate) async fn build_failure(nix: &dyn Nix, error: Arc<BuildError>) -> anyhow::Error {
    let lines = error.log_tail();
    if !lines.is_empty() {
        output::note("the end of the build's log:");
    }
    for line in lines {
        output::note(&format!("  {line}"));
    }
    if matches!(*error, BuildError::Unavailable { .. } | BuildError::Pack(_)) {
        match setup::preflight(nix).await {
            Ok(findings) => {
                for finding in findings {
                    output::note(&format!("warning: {}", setup::describe_finding(&finding)));
                }
            }
            Err(error) => return error.into(),
        }
    }
    BuildFailure(error).into()
}

/// Prints the error unless it is none to the user, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if broken_pipe {
        // The reader has seen enough: `nixery layers … | head`.
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

/// One `error:` line, and one `caused by:` line per reason. An error that lists several problems
/// has one per line.
pub(crate) fn print(error: &anyhow::Error) {
    for line in error.to_string().lines() {
        output::note(&format!("error: {line}"));
    }
    for cause in error.chain().skip(1) {
        output::note(&format!("caused by: {cause}"));
    }
}
