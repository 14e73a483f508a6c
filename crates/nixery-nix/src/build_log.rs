//! The bounded, shared log of one build.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::secrets::{hide_secrets, longest_secret};

/// Lines kept from the start of a build, where the cause of a failure often is.
const HEAD_LINES: usize = 500;
/// Lines kept from its end.
const TAIL_LINES: usize = 1_500;
/// Bytes kept of the head. With the tail a log has less than 1 MiB.
const HEAD_BYTES: usize = 300 * 1024;
/// Bytes kept of the tail.
const TAIL_BYTES: usize = 2 * HEAD_BYTES;
/// Bytes kept of one line.
const LINE_BYTES: usize = 4 * 1024;
/// Lines that a slow subscriber may be behind before it loses some.
const SUBSCRIBER_LINES: usize = 256;

/// The log of one build. Clones are cheap and share it. It is filled while the build runs, and
/// bounded in lines and bytes: the middle of a long log is dropped.
#[derive(Debug, Clone)]
pub struct BuildLog(Arc<Shared>);

/// Called with each line as it is kept.
type Observer = Box<dyn Fn(&str) + Send + Sync>;

struct Shared {
    lines: Mutex<Lines>,
    subscribers: broadcast::Sender<Arc<str>>,
    observer: Option<Observer>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Lines {
    head: Vec<Arc<str>>,
    head_bytes: usize,
    tail: VecDeque<Arc<str>>,
    tail_bytes: usize,
    dropped: u64,
}

impl Default for BuildLog {
    fn default() -> Self {
        Self::new(None)
    }
}

impl BuildLog {
    /// Returns an empty log that also passes each line to `observer`, as it is kept.
    pub fn observed(observer: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self::new(Some(Box::new(observer)))
    }

    fn new(observer: Option<Observer>) -> Self {
        let (subscribers, _) = broadcast::channel(SUBSCRIBER_LINES);
        Self(Arc::new(Shared {
            lines: Mutex::default(),
            subscribers,
            observer,
        }))
    }

    /// Appends a line. Control sequences and control characters are removed, a long line is cut.
    pub fn push(&self, line: &str) {
        let line: Arc<str> = clean_line(line.as_bytes()).into();
        self.lines().push(Arc::clone(&line));
        if let Some(observer) = &self.0.observer {
            observer(&line);
        }
        // Fails without subscribers, which is no error here.
        let _ = self.0.subscribers.send(line);
    }

    /// Returns a receiver of the lines from now on. If it lags, it loses the oldest ones and gets
    /// their number.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.subscribers.subscribe()
    }

    /// Returns the whole log. Where lines were dropped, a line has their number.
    pub fn text(&self) -> String {
        let lines = self.lines();
        let mut text = String::with_capacity(lines.head_bytes + lines.tail_bytes + 4096);
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        lines.head.iter().for_each(|text| line(text));
        if lines.dropped > 0 {
            line(&format!("[… {} lines left out …]", lines.dropped));
        }
        lines.tail.iter().for_each(|text| line(text));
        text
    }

    /// Returns the last `count` lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.lines();
        let head = if lines.dropped == 0 {
            lines.head.as_slice()
        } else {
            &[]
        };
        let skip = (head.len() + lines.tail.len()).saturating_sub(count);
        let last = head.iter().chain(&lines.tail).skip(skip);
        last.map(|line| line.to_string()).collect()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, line: Arc<str>) {
        if self.tail.is_empty()
            && self.head.len() < HEAD_LINES
            && self.head_bytes + line.len() <= HEAD_BYTES
        {
            self.head_bytes += line.len();
            self.head.push(line);
            return;
        }
        self.tail_bytes += line.len();
        self.tail.push_back(line);
        while self.tail.len() > TAIL_LINES || self.tail_bytes > TAIL_BYTES {
            let Some(oldest) = self.tail.pop_front() else {
                break;
            };
            self.tail_bytes -= oldest.len();
            self.dropped += 1;
        }
    }
}

/// Returns a line that is safe for a log page and a terminal: UTF-8, without escape sequences,
/// control characters and secrets of this process, at most 4 KiB. Of a line that carriage returns
/// overwrite (a progress bar), the last text stays.
pub(crate) fn clean_line(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let last = line.rsplit(|&byte| byte == b'\r').next().unwrap_or(line);
    let text = String::from_utf8_lossy(last);
    let longest_secret = longest_secret();
    let most = LINE_BYTES + longest_secret;
    let mut clean = String::with_capacity(text.len().min(most));
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => clean.push('\t'),
            c if c.is_control() => {}
            c => clean.push(c),
        }
        if clean.len() >= most {
            break;
        }
    }
    let is_cut = chars.next().is_some();
    if let Cow::Owned(hidden) = hide_secrets(&clean) {
        clean = hidden;
    }
    if is_cut {
        // It may end with the first part of a secret.
        let end = clean.len().saturating_sub(longest_secret);
        clean.truncate(clean.floor_char_boundary(end));
    }
    if is_cut || clean.len() > LINE_BYTES {
        clean.truncate(clean.floor_char_boundary(LINE_BYTES));
        clean.push('…');
    }
    clean
}

/// Skips the rest of an ECMA-48 escape sequence: CSI up to its final byte, OSC and other strings
/// up to their terminator, and two-character sequences.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => {
            // Parameter and intermediate bytes are 0x20–0x3f; the final byte is 0x40–0x7e.
            while let Some(c) = chars.next_if(|c| (' '..='~').contains(c)) {
                if c >= '@' {
                    return;
                }
            }
        }
        Some(']' | 'P' | '_' | '^' | 'X') => {
            while let Some(c) = chars.next() {
                if c == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                }
                if c == '\u{1b}' || c == '\u{7}' {
                    return;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain(b"hello", "hello")]
    #[case::colour(b"\x1b[31;1merror:\x1b[0m no", "error: no")]
    #[case::nul_and_bell(b"a\0b\x07c", "abc")]
    #[case::not_utf8(b"a\xff\xfeb", "a\u{fffd}\u{fffd}b")]
    #[case::title(b"\x1b]0;title\x07text", "text")]
    #[case::title_st(b"\x1b]0;title\x1b\\text", "text")]
    #[case::unfinished(b"text\x1b[31", "text")]
    #[case::lone_escape(b"text\x1b", "text")]
    #[case::progress_bar(b" 10%\r 50%\r100%\r", "100%")]
    #[case::tab(b"a\tb", "a\tb")]
    fn lines_are_cleaned(#[case] line: &[u8], #[case] clean: &str) {
        assert_eq!(clean_line(line), clean);
    }

    #[test]
    fn a_long_line_is_cut() {
        let clean = clean_line("ä".repeat(LINE_BYTES).as_bytes());
        assert!(
            clean.len() <= LINE_BYTES + 4 && clean.ends_with('…'),
            "{}",
            clean.len()
        );
    }

    #[rstest]
    #[case::whole("the key is test-secret-4711", "the key is [hidden]")]
    #[case::coloured("the key is test-\x1b[1msecret-4711\x1b[0m", "the key is [hidden]")]
    fn secrets_are_hidden(#[case] line: &str, #[case] clean: &str) {
        crate::secrets::add_secret("test-secret-4711");
        assert_eq!(clean_line(line.as_bytes()), clean);
        let log = BuildLog::default();
        log.push(line);
        assert_eq!(log.text(), format!("{clean}\n"));
    }

    /// Wherever the end of a long line is cut off, it shows no part of a secret.
    #[test]
    fn a_secret_is_not_cut_in_two() {
        crate::secrets::add_secret("test-secret-4712");
        for before in LINE_BYTES - 20..LINE_BYTES + 4 {
            for hidden_before in ["", "test-secret-4712"] {
                let start = "x".repeat(before - hidden_before.len());
                let line = format!("{hidden_before}{start}test-secret-4712{}", "y".repeat(5000));
                let clean = clean_line(line.as_bytes());
                assert!(!clean.contains("test"), "{before}: {clean}");
                assert!(clean.len() <= LINE_BYTES + 4, "{before}");
            }
        }
    }

    #[test]
    fn a_flood_keeps_head_and_tail() {
        let log = BuildLog::default();
        for n in 0..100_000 {
            log.push(&format!("line {n}"));
        }
        let text = log.text();
        assert!(text.starts_with("line 0\nline 1\n"));
        assert!(text.ends_with("line 99998\nline 99999\n"));
        assert!(
            text.contains("[… 98000 lines left out …]"),
            "{}",
            text.lines().count()
        );
        assert_eq!(log.tail(2), ["line 99998", "line 99999"]);
    }

    #[test]
    fn a_flood_of_long_lines_is_bounded_in_bytes() {
        let log = BuildLog::default();
        for _ in 0..10_000 {
            log.push(&"x".repeat(10_000));
        }
        assert!(log.text().len() < 1024 * 1024);
    }

    #[test]
    fn a_short_log_is_whole() {
        let log = BuildLog::default();
        let mut lines = log.subscribe();
        log.push("one");
        log.push("two");
        assert_eq!(log.text(), "one\ntwo\n");
        assert_eq!(log.tail(20), ["one", "two"]);
        assert_eq!(&*lines.try_recv().expect("sent"), "one");
    }
}
