//! Log lines: text for people at a terminal, JSON for everything else.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::SystemTime;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::log_queue::LogQueue;
use crate::text::timestamp;

/// The queue of JSON lines.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Prefixes of the crates that log signatures, and what they sign, at `debug`. They are held back
/// unless the filter names them.
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

/// Starts logging to standard error; a second call in one process changes nothing.
///
/// An invalid `filter` counts as `info`; [`crate::config::ServerArgs::settings`] refuses such
/// filters.
pub fn start(format: LogFormat, filter: &str) {
    let filter = env_filter(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false);
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // It fails where the embedding program has set a subscriber already, which stays.
    let _ = if text {
        let builder = builder.with_writer(io::stderr).with_ansi(terminal);
        builder.with_timer(Seconds).try_init()
    } else {
        // The fields of an event stand at the top level; there are no spans.
        let builder = builder.json().flatten_event(true);
        let builder = builder.with_current_span(false).with_span_list(false);
        match LogQueue::start(io::stderr()) {
            Ok(queue) => {
                let queue = QUEUE.get_or_init(|| queue);
                builder.with_writer(|| queue.clone()).try_init()
            }
            // Slower, but no worse.
            Err(_) => builder.with_writer(io::stderr).try_init(),
        }
    };
}

/// Waits at most two seconds until all lines are written; later lines are written at once. Call it
/// before the program ends.
pub fn drain() {
    if let Some(queue) = QUEUE.get() {
        queue.drain();
    }
}

/// The time in UTC, to the second.
struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&timestamp(SystemTime::now()))
    }
}

/// Parses a filter, and holds [`SIGNING_CRATES`] back.
///
/// # Errors
/// The text is not a filter.
fn env_filter(text: &str) -> Result<EnvFilter, ParseError> {
    let levels = text.split(',').filter(|directive| !directive.is_empty());
    let mut general = levels.filter_map(|directive| directive.parse::<LevelFilter>().ok());
    let mut filter = String::new();
    // The more verbose level is the greater one.
    if general.next_back() > Some(LevelFilter::WARN) {
        filter.extend(SIGNING_CRATES.map(|target| format!("{target}={},", LevelFilter::WARN)));
    }
    // Later directives win, and longer targets.
    filter.push_str(text);
    EnvFilter::try_new(filter)
}

/// Whether the text is a level, or a list of levels and `crate=level`.
///
/// [`EnvFilter`] reads any other word as the name of a crate, and silences all other crates.
#[must_use]
pub(crate) fn is_filter(text: &str) -> bool {
    EnvFilter::try_new(text).is_ok()
        && text
            .split(',')
            .all(|directive| directive.contains('=') || directive.parse::<LevelFilter>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rstest::rstest;

    use super::*;

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

    /// Letters of what is logged: (o)pendal, (r)eqsign, (n)ixery; capitals are warnings.
    #[rstest]
    #[case("info", "ORN")]
    #[case("debug", "ORNn")]
    #[case("trace,", "ORNn")]
    #[case("debug,reqsign=debug", "ORrNn")]
    #[case("reqsign_aws_v4=debug,opendal=trace,debug", "OoRrNn")]
    #[case("debug,opendal=off", "RNn")]
    #[case("warn", "ORN")]
    #[case("error", "")]
    #[case("off", "")]
    #[case("nixery_builder=debug", "Nn")]
    fn what_is_signed_is_logged_only_where_that_is_asked_for(
        #[case] filter: &str,
        #[case] expected: &str,
    ) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(env_filter(filter).unwrap())
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "opendal::services", "O");
            tracing::debug!(target: "opendal::services", "o");
            tracing::warn!(target: "reqsign_aws_v4::sign_request", "R");
            tracing::debug!(target: "reqsign_aws_v4::sign_request", "r");
            tracing::warn!(target: "nixery_builder::flow", "N");
            tracing::debug!(target: "nixery_builder::flow", "n");
        });
        let bytes = lines.0.lock().unwrap().clone();
        let messages = String::from_utf8(bytes).unwrap();
        let messages: String = messages
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["message"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(messages, expected);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
