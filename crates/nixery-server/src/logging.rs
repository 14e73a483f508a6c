//! Log lines: text for people at a terminal, JSON for everything else.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Layout of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if standard error is a terminal, else JSON.
    Auto,
    /// One readable line for each event.
    Text,
    /// One JSON object for each event, with the fields at its top level.
    Json,
}

/// Starts logging to standard error; a second call in one process changes nothing.
///
/// A `filter` that cannot be read counts as `info`; [`crate::config::ServerArgs::settings`] refuses such filters.
pub fn start(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // Failing means that the program around us has a subscriber already: its choice stands.
    let _ = if text {
        builder.with_ansi(terminal).try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    };
}
