//! Log lines: text for people at a terminal, JSON for everything else.

use crate::json_lines::JsonLines;
use crate::log_queue::LogQueue;
use crate::text::timestamp;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::SystemTime;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// What JSON lines go through.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

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
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false);
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // Failing means that the program around us has a subscriber already: its choice stands.
    let _ = if text {
        let builder = builder.with_writer(io::stderr).with_ansi(terminal);
        builder.with_timer(Seconds).try_init()
    } else {
        let builder = builder.event_format(JsonLines);
        match LogQueue::start(io::stderr()) {
            Ok(queue) => {
                let queue = QUEUE.get_or_init(|| queue);
                builder.with_writer(|| queue.clone()).try_init()
            }
            // It is slower, no worse.
            Err(_) => builder.with_writer(io::stderr).try_init(),
        }
    };
}

/// Waits until all lines are written, for two seconds at most. To be called before the program ends.
pub fn drain() {
    if let Some(queue) = QUEUE.get() {
        queue.drain();
    }
}

/// The time for people: in UTC, to the second.
struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&timestamp(SystemTime::now()))
    }
}

/// Whether the text is a level, or a list of levels and `crate=level`.
///
/// [`EnvFilter`] takes any other word for the name of a crate, and silences all the rest.
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
