//! The format and the filter of log lines.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::SystemTime;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Prefixes of crates that log secrets at `debug`: what they sign for a store, and with which key.
/// Their lines are logged only if a filter names them.
const SIGNING_CRATES: [&str; 2] = ["opendal", "reqsign"];

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

/// Starts logging text to standard error. A second call in one process has no effect.
///
/// An invalid `filter` counts as `info`; the settings refuse such filters.
pub fn start_text_log(filter: &str) {
    // It fails if the embedding program has set a subscriber already, which stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(env_filter(filter).unwrap_or_else(|_| EnvFilter::new("info")))
        .with_target(false)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_timer(Seconds)
        .try_init();
}

/// Writes the time in UTC, to the second.
struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        write!(writer, "{now}")
    }
}

/// Parses a filter. What `opendal` and `reqsign` log about signing is left out unless the filter
/// names them.
///
/// # Errors
/// The text is not a filter.
pub fn env_filter(text: &str) -> Result<EnvFilter, ParseError> {
    let levels = text.split(',').filter(|directive| !directive.is_empty());
    let mut general = levels.filter_map(|directive| directive.parse::<LevelFilter>().ok());
    let mut filter = String::new();
    // The more verbose level is the greater one.
    if general.next_back() > Some(LevelFilter::WARN) {
        filter.extend(SIGNING_CRATES.map(|target| format!("{target}={},", LevelFilter::WARN)));
    }
    // Later directives win over earlier ones, and longer targets over shorter ones.
    filter.push_str(text);
    EnvFilter::try_new(filter)
}

/// Whether the text is a level, or a list of levels and `crate=level`.
///
/// [`EnvFilter`] reads any other word as the name of a crate, and silences all others.
#[must_use]
pub(crate) fn is_filter(text: &str) -> bool {
    EnvFilter::try_new(text).is_ok()
        && text
            .split(',')
            .all(|directive| directive.contains('=') || directive.parse::<LevelFilter>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("info", true)]
    #[case("OFF", true)]
    #[case("nixery_builder=debug,warn", true)]
    #[case("warn,nixery_server::listen=trace", true)]
    #[case("verbose", false)]
    #[case("wran", false)]
    #[case("info,", true)]
    #[case("nixery_builder=loud", false)]
    #[case("a=b=c", false)]
    fn a_filter_is_made_of_levels(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(is_filter(text), expected);
    }
}
