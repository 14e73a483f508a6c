//! Errors with their sources, as one line for logs.

use std::iter::successors;

/// The sources of an error, outermost first; empty for an error without sources.
pub fn causes(error: &dyn std::error::Error) -> String {
    let sources = successors(error.source(), |error| error.source());
    sources
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// The error and its sources, outermost first.
pub fn chain(error: &dyn std::error::Error) -> String {
    match causes(error) {
        causes if causes.is_empty() => error.to_string(),
        causes => format!("{error}: {causes}"),
    }
}
