//! What the user reads when something fails, and the exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use nixery_server::config::ConfigErrors;

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
