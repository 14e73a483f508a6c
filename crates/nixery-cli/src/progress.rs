//! Progress on standard error: a bar on a terminal, or else a line now and then.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nixery_core::ByteSize;

use crate::output;

/// The least time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// The time between two steps of a spinner.
const SPINNER_INTERVAL: Duration = Duration::from_millis(120);

/// What a bar counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nothing: work of unknown length.
    Spinner,
    /// Items.
    Items,
    /// Bytes, shown in decimal units.
    Bytes,
}

/// Reports progress. Clones report to the same bar.
#[derive(Clone)]
pub(crate) struct Reporter {
    quiet: bool,
    bar: Option<ProgressBar>,
    /// The unit of the bar, and when the last line was printed.
    last: Arc<Mutex<(Unit, Instant)>>,
}

impl Reporter {
    /// Reports nothing when `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(SPINNER_INTERVAL);
            bar
        });
        let reporter = Self {
            quiet,
            bar,
            last: Arc::new(Mutex::new((Unit::Spinner, Instant::now()))),
        };
        reporter.style(Unit::Spinner);
        reporter
    }

    fn style(&self, unit: Unit) {
        let template = match unit {
            Unit::Spinner => "{spinner} {prefix} {wide_msg} {elapsed}",
            Unit::Items => "{spinner} {prefix} {wide_bar} {pos}/{len} {msg} {elapsed}",
            Unit::Bytes => {
                "{spinner} {prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {msg} {elapsed}"
            }
        };
        if let (Some(bar), Ok(style)) = (&self.bar, ProgressStyle::with_template(template)) {
            bar.set_style(style);
        }
    }

    /// Reports how much is done. `message` is short and stands beside the bar.
    pub(crate) fn at(&self, unit: Unit, prefix: &str, done: u64, total: u64, message: &str) {
        let (last_unit, last_line) = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::replace(&mut last.0, unit), last.1)
        };
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_prefix(prefix.to_owned());
            bar.set_message(message.to_owned());
            // After the numbers, so that the bar does not show those of earlier work.
            if last_unit != unit {
                self.style(unit);
            }
        } else if last_line.elapsed() >= LINE_INTERVAL {
            let percent = match unit {
                Unit::Spinner => String::new(),
                _ => format!(" {}%", u128::from(done) * 100 / u128::from(total.max(1))),
            };
            self.line(&format!("{prefix}{percent} {message}"));
        }
    }

    /// Prints a line that stays.
    pub(crate) fn line(&self, line: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).1 = Instant::now();
        match &self.bar {
            _ if self.quiet => {}
            // Above the bar.
            Some(bar) => bar.suspend(|| output::note(line)),
            None => output::note(line),
        }
    }

    /// Whether there is a bar.
    pub(crate) fn has_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Formats bytes for people, in decimal units.
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Formats a duration for people: milliseconds, or tenths of seconds.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
