//! Progress on standard error: a bar on a terminal, a line now and then elsewhere, or nothing.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nixery_core::ByteSize;

use crate::output;

/// At least so long between the lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often a bar that stands still moves its spinner.
const TICK: Duration = Duration::from_millis(120);

/// What a bar counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nothing: work of unknown length.
    Spinner,
    /// Things.
    Items,
    /// Bytes, shown in decimal units.
    Bytes,
}

/// Shows how far something is.
pub(crate) struct Reporter {
    quiet: bool,
    bar: Option<ProgressBar>,
    unit: Unit,
    last_line: Instant,
}

impl Reporter {
    /// Shows nothing at all when `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(TICK);
            bar
        });
        let reporter = Self {
            quiet,
            bar,
            unit: Unit::Spinner,
            last_line: Instant::now(),
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

    /// How far the work is. `message` is short, and stands beside the bar.
    pub(crate) fn at(&mut self, unit: Unit, prefix: &str, done: u64, total: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_prefix(prefix.to_owned());
            bar.set_message(message.to_owned());
        }
        // After the numbers: a bar must not show those of the work before.
        if self.unit != unit {
            self.unit = unit;
            self.style(unit);
        }
        if self.bar.is_none() && self.last_line.elapsed() >= LINE_EVERY {
            let of = if unit == Unit::Spinner {
                String::new()
            } else {
                format!(" {}%", percent(done, total))
            };
            self.line(&format!("{prefix}{of} {message}"));
        }
    }

    /// A line that stays.
    pub(crate) fn line(&mut self, line: &str) {
        self.last_line = Instant::now();
        match &self.bar {
            _ if self.quiet => {}
            // Above the bar, which stays below.
            Some(bar) => bar.suspend(|| output::note(line)),
            None => output::note(line),
        }
    }

    /// Whether there is a bar.
    pub(crate) fn has_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn percent(done: u64, total: u64) -> u128 {
    u128::from(done) * 100 / u128::from(total.max(1))
}

/// Bytes for people, in decimal units.
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A duration for people: milliseconds, then tenths of seconds.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
