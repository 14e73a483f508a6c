//! Events as JSON, one object on a line, with the fields at its top level.
//!
//! The line of a request is much of what answering it from memory takes, and `tracing-subscriber`'s own JSON, which
//! goes through serde in small pieces, takes four times as long.

use crate::text::precise_timestamp;
use std::fmt::{self, Write};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Bytes of a usual line.
const USUAL: usize = 512;

/// `{"timestamp":"…","level":"INFO","message":"…", …}`
pub(crate) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::begin(SystemTime::now(), event.metadata().level().as_str());
        event.record(&mut line);
        line.0.push_str("}\n");
        writer.write_str(&line.0)
    }
}

/// A line that is being written.
struct Line(String);

impl Line {
    fn begin(now: SystemTime, level: &str) -> Self {
        let mut line = String::with_capacity(USUAL);
        line.push_str("{\"timestamp\":\"");
        line.push_str(&precise_timestamp(now));
        line.push_str("\",\"level\":\"");
        line.push_str(level);
        line.push('"');
        Self(line)
    }

    fn name(&mut self, field: &Field) {
        self.0.push(',');
        self.text(field.name());
        self.0.push(':');
    }

    fn text(&mut self, text: &str) {
        self.0.push('"');
        // Writing to a string cannot fail.
        let _ = Escaped(&mut self.0).write_str(text);
        self.0.push('"');
    }

    /// What `Display` says of a number or a truth value is JSON as well.
    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        let _ = write!(self.0, "{value}");
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.text(value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.name(field);
            self.0.push_str("null");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        self.0.push('"');
        let _ = write!(Escaped(&mut self.0), "{value:?}");
        self.0.push('"');
    }
}

/// Escapes what a JSON string cannot hold (RFC 8259, section 7).
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut written = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte >= b' ' && byte != b'"' && byte != b'\\' {
                continue;
            }
            // All of these are characters of one byte.
            self.0.push_str(&text[written..at]);
            written = at + 1;
            match byte {
                b'"' => self.0.push_str("\\\""),
                b'\\' => self.0.push_str("\\\\"),
                b'\n' => self.0.push_str("\\n"),
                b'\t' => self.0.push_str("\\t"),
                _ => write!(self.0, "\\u{byte:04x}")?,
            }
        }
        self.0.push_str(&text[written..]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged, as JSON: each line by itself.
    fn logged(log: impl FnOnce()) -> Vec<Value> {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(JsonLines)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = buffer.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with('\n'));
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn fields_have_their_types_and_absent_ones_are_left_out() {
        let absent: Option<bool> = None;
        let error = io::Error::other("said \"no\"\n");
        let lines = logged(|| {
            tracing::info!(
                status = 200_u16,
                below = -1_i64,
                ms = 0.1,
                odd = f64::NAN,
                yes = true,
                absent,
                path = "/v2/",
                shown = %error,
                "request"
            );
            tracing::warn!("number {}", 2);
        });
        let [first, second] = &lines[..] else {
            panic!("{lines:?}")
        };
        let time = first["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == 27, "{time}");
        let mut fields = first.as_object().unwrap().clone();
        fields.remove("timestamp");
        let expected = serde_json::json!({
            "level": "INFO", "message": "request", "status": 200, "below": -1, "ms": 0.1, "odd": null,
            "yes": true, "path": "/v2/", "shown": "said \"no\"\n",
        });
        assert_eq!(Value::Object(fields), expected);
        assert_eq!(
            (&second["level"], &second["message"]),
            (&"WARN".into(), &"number 2".into())
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_is_one_line_of_json(text in ".*", more in any::<String>()) {
            let lines = logged(|| tracing::info!(text, more = ?more, "{text}"));
            prop_assert_eq!(lines.len(), 1);
            prop_assert_eq!(lines[0]["text"].as_str(), Some(text.as_str()));
            prop_assert_eq!(lines[0]["message"].as_str(), Some(text.as_str()));
            let shown = format!("{more:?}");
            prop_assert_eq!(lines[0]["more"].as_str(), Some(shown.as_str()));
        }
    }
}
