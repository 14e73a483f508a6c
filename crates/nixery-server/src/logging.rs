//! Log lines: text for people at a terminal, JSON for everything else.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, env_filter, start_text_log};
use crate::log_queue::LogQueue;

/// The queue of JSON lines.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Starts logging to standard error; a second call in one process changes nothing.
///
/// An invalid `filter` counts as `info`; the settings refuse such filters.
pub(crate) fn start(format: LogFormat, filter: &str) {
    let text = match format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    if text {
        return start_text_log(filter);
    }
    // The fields of an event stand at the top level; there are no spans.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter(filter).unwrap_or_else(|_| EnvFilter::new("info")))
        .with_target(false)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false);
    // It fails where the embedding program has set a subscriber already, which stays.
    let _ = match LogQueue::start(io::stderr()) {
        Ok(queue) => {
            let queue = QUEUE.get_or_init(|| queue);
            builder.with_writer(|| queue.clone()).try_init()
        }
        // Logging is slower then, and otherwise the same.
        Err(_) => builder.with_writer(io::stderr).try_init(),
    };
}

/// Waits at most two seconds until all lines are written; later lines are written at once. Call it
/// before the program ends.
pub(crate) fn drain() {
    if let Some(queue) = QUEUE.get() {
        queue.drain();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rstest::rstest;

    use super::*;

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
