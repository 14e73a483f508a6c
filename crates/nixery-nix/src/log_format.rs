//! Parses Nix's `internal-json` log: which builder wrote a line, and the errors with their traces.
//! Nothing is derived from the text of a line, because a builder may print the same text.
//!
//! The format is Nix's `JSONLogger` (src/libutil/logging.cc): lines of `@nix {…}` with an action
//! (`start`, `stop`, `result`, `msg`); the same in Nix 2.8 and 2.26. Other lines are plain text,
//! from programs Nix runs without capturing their output, such as git.
//!
//! **Builders write to this log too.** Nix parses lines of a builder that begin with `@nix`
//! (`handleJSONLogMessage`) and logs a `msg` in them, and what it says about downloads, as its own.
//! Two facts distinguish them. Nix's own errors have a `raw_msg`, which a builder cannot set, and a
//! builder can start no activity but downloads, so every build activity is Nix's. With a daemon the
//! errors of builds have no `raw_msg` either. They are used if there is no other error, and only
//! about derivations that Nix has announced or started.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::Deserialize;
use serde_json::Value;

use crate::build_log::{BuildLog, clean_line};
use crate::messages::{failed_derivation, says_disk_full};

/// Activity type of a download of a file. Nix logs its own ones at a level that is not shown.
const ACTIVITY_DOWNLOAD: u64 = 101;
/// Activity type of a derivation being built; its first field is the derivation's path.
const ACTIVITY_BUILD: u64 = 105;
/// Result type of a line of a builder's output, and of a post-build hook's.
const RESULT_BUILD_LOG_LINE: u64 = 101;
/// The default verbosity of Nix: errors 0, warnings 1, notices 2, info 3.
const LEVEL_INFO: u64 = 3;
/// Lines kept of each builder, and of all output.
pub(crate) const TAIL_LINES: usize = 20;
/// Ended builders whose lines are kept: Nix may report a failure after the end.
const ENDED_BUILDERS: usize = 64;
/// Error messages kept. Nix prints one per failed derivation and per dependent.
const MAX_ERRORS: usize = 256;
/// Derivations of one command that are remembered.
const MAX_DERIVATIONS: usize = 100_000;
/// Nix's own message when it was asked to stop.
const INTERRUPTED: &str = "interrupted by the user";
/// How the log names the author of a line that several builders may have written.
const SOME_BUILDER: &str = "a builder";

/// Collects the log of one Nix command, and passes its lines on to the build's log.
#[derive(Debug)]
pub(crate) struct NixLog<'a> {
    log: &'a BuildLog,
    running: HashMap<u64, Builder>,
    ended: VecDeque<Builder>,
    /// Whether Nix has started a builder, which may write to the log.
    has_built: bool,
    /// What Nix announced to build, and what it has started.
    derivations: HashSet<String>,
    /// Error messages of Nix itself, in order.
    pub(crate) errors: Vec<NixMessage>,
    /// The last error messages that are a builder's, or of a Nix daemon.
    pub(crate) unproven: VecDeque<NixMessage>,
    /// Whether any error of Nix, also one that is not kept, means that it had no disk space.
    pub(crate) disk_full: bool,
    /// Whether Nix was asked to stop.
    pub(crate) interrupted: bool,
    /// The last lines that are not in Nix's format.
    pub(crate) plain: VecDeque<String>,
}

#[derive(Debug)]
struct Builder {
    derivation: String,
    tail: VecDeque<String>,
}

/// An error message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NixMessage {
    /// The message without "error: " and trace. May have several lines.
    pub(crate) text: String,
    /// Its trace, innermost first. Empty without `--show-trace`.
    pub(crate) trace: Vec<String>,
    /// Whether it is not an error that Nix can describe, such as those of evaluated code.
    pub(crate) is_bare: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    action: String,
    id: u64,
    level: u64,
    #[serde(rename = "type")]
    kind: u64,
    text: String,
    fields: Vec<Value>,
    msg: String,
    raw_msg: Option<String>,
    trace: Vec<Trace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Trace {
    raw_msg: String,
}

impl Event {
    fn error(&self) -> NixMessage {
        let text = clean_lines(self.raw_msg.as_ref().unwrap_or(&self.msg));
        let trace = self.trace.iter();
        NixMessage {
            text: text.strip_prefix("error: ").unwrap_or(&text).to_owned(),
            trace: trace.map(|trace| clean_lines(&trace.raw_msg)).collect(),
            is_bare: self.raw_msg.is_none(),
        }
    }

    /// Whether Nix says that it was asked to stop. Evaluated code can print the same words after
    /// others, and throw them with a trace.
    fn is_interruption(&self) -> bool {
        self.level == 0 && {
            let error = self.error();
            error.text == INTERRUPTED && error.trace.is_empty()
        }
    }
}

impl<'a> NixLog<'a> {
    pub(crate) fn new(log: &'a BuildLog) -> Self {
        Self {
            log,
            running: HashMap::new(),
            ended: VecDeque::new(),
            has_built: false,
            derivations: HashSet::new(),
            errors: Vec::new(),
            unproven: VecDeque::new(),
            disk_full: false,
            interrupted: false,
            plain: VecDeque::new(),
        }
    }

    /// Takes one line of stderr.
    pub(crate) fn line(&mut self, line: &[u8]) {
        let event = line
            .strip_prefix(b"@nix ")
            .filter(|json| json.starts_with(b"{"))
            .and_then(|json| serde_json::from_str(&String::from_utf8_lossy(json)).ok());
        match event {
            Some(event) => self.event(event),
            None => {
                let line = clean_line(line);
                self.log.push(&line);
                push_bounded(&mut self.plain, line, TAIL_LINES);
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event.action.as_str() {
            "start" => self.start(event),
            "stop" => {
                if let Some(builder) = self.running.remove(&event.id) {
                    push_bounded(&mut self.ended, builder, ENDED_BUILDERS);
                }
            }
            "result" if event.kind == RESULT_BUILD_LOG_LINE => self.builder_line(&event),
            "msg" => self.message(event),
            _ => {}
        }
    }

    fn start(&mut self, event: Event) {
        if event.level <= LEVEL_INFO && !event.text.is_empty() {
            match event.kind {
                ACTIVITY_DOWNLOAD => self.push_of_builder(&event.text),
                _ => self.log.push(&event.text),
            }
        }
        if event.kind == ACTIVITY_BUILD
            && let Some(Value::String(derivation)) = event.fields.first()
        {
            let (derivation, tail) = (derivation.clone(), VecDeque::new());
            self.has_built = true;
            self.remember(&derivation);
            self.running.insert(event.id, Builder { derivation, tail });
        }
    }

    fn remember(&mut self, derivation: &str) {
        if self.derivations.len() < MAX_DERIVATIONS {
            self.derivations.insert(derivation.to_owned());
        }
    }

    fn builder_line(&mut self, event: &Event) {
        let Some(Value::String(line)) = event.fields.first() else {
            return;
        };
        match self.running.get_mut(&event.id) {
            Some(builder) => {
                let line = clean_line(line.as_bytes());
                self.log
                    .push(&format!("{}> {line}", short_name(&builder.derivation)));
                push_bounded(&mut builder.tail, line, TAIL_LINES);
            }
            None => self.push_of_builder(line),
        }
    }

    /// Appends a line that a builder may have written, with its name if only one is running.
    fn push_of_builder(&self, line: &str) {
        let mut running = self.running.values();
        let author = match (running.next(), running.next()) {
            (Some(builder), None) => short_name(&builder.derivation),
            _ => SOME_BUILDER,
        };
        self.log.push(&format!("{author}> {line}"));
    }

    fn message(&mut self, event: Event) {
        let is_own = event.raw_msg.is_some() || !self.has_built;
        if event.level > LEVEL_INFO {
            return;
        }
        if is_own && event.is_interruption() {
            self.interrupted = true;
            return;
        }
        for line in event.msg.lines() {
            match is_own {
                true => self.log.push(line),
                false => self.push_of_builder(line),
            }
        }
        if !self.has_built
            && let Some(derivation) = event.msg.strip_prefix("  ")
            && derivation.ends_with(".drv")
        {
            self.remember(derivation);
        }
        if event.level == 0 {
            self.error(&event, is_own);
        }
    }

    fn error(&mut self, event: &Event, is_own: bool) {
        let message = event.error();
        if !is_own {
            push_bounded(&mut self.unproven, message, MAX_ERRORS);
            return;
        }
        self.disk_full |= says_disk_full(&message.text);
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(message);
        }
    }

    /// Whether Nix has announced to build the derivation, or has started to.
    pub(crate) fn has_derivation(&self, derivation: &str) -> bool {
        self.derivations.contains(derivation)
    }

    /// The builders of which lines are kept, the running and the newest first.
    fn builders(&self) -> impl Iterator<Item = &Builder> {
        self.running.values().chain(self.ended.iter().rev())
    }

    /// The last lines of one builder's output.
    pub(crate) fn builder_tail(&self, derivation: &str) -> Vec<String> {
        self.builders()
            .find(|builder| builder.derivation == derivation)
            .map(|builder| builder.tail.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The last lines of a failed builder's output, and Nix's message where the builder itself
    /// did not fail: the two hashes of a mismatch, the file that was refused.
    pub(crate) fn failure_tail(&self, derivation: &str, reason: &str) -> Vec<String> {
        let mut tail = self.builder_tail(derivation);
        let mut errors = self.errors.iter().chain(&self.unproven);
        let of_derivation = |error: &&NixMessage| {
            failed_derivation(&error.text).is_some_and(|(failed, _)| failed == derivation)
        };
        if !reason.starts_with("builder-")
            && let Some(error) = errors.find(of_derivation).or(self.errors.first())
        {
            tail.extend(error.text.lines().take(TAIL_LINES).map(str::to_owned));
        }
        tail
    }

    /// The derivation with this name that was built.
    pub(crate) fn derivation_of(&self, name: &str) -> Option<String> {
        let mut derivations = self.builders().map(|builder| &builder.derivation);
        derivations
            .find(|derivation| short_name(derivation) == name)
            .cloned()
    }

    /// All error messages, for the server's log.
    pub(crate) fn detail(&self) -> String {
        let errors = self.errors.iter().chain(&self.unproven);
        let errors = errors.map(|error| error.text.as_str());
        errors.collect::<Vec<_>>().join("; ")
    }

    /// The last lines of the whole log; those of builders start with their names.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.log.tail(TAIL_LINES)
    }
}

fn clean_lines(text: &str) -> String {
    let lines = text.lines().map(|line| clean_line(line.as_bytes()));
    lines.collect::<Vec<_>>().join("\n")
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    if queue.len() == max {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// `git-2.38` of `/nix/store/…-git-2.38.drv`.
pub(crate) fn short_name(derivation: &str) -> &str {
    let base = derivation.rsplit('/').next().unwrap_or(derivation);
    let name = base.split_once('-').map_or(base, |(_, name)| name);
    name.strip_suffix(".drv").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-a-1.0.drv";
    const B: &str = "/nix/store/0mbpwnspw1n2hcskklrmqq41fzpha0i7-b-2.0.drv";

    #[test]
    fn lines_of_interleaved_builders_are_separated() {
        let out = BuildLog::default();
        let mut log = NixLog::new(&out);
        for (id, derivation) in [(1, A), (2, B)] {
            log.line(format!(r#"@nix {{"action":"start","id":{id},"level":3,"text":"building '{derivation}'","type":105,"fields":["{derivation}","",1,1]}}"#).as_bytes());
        }
        for n in 0..30 {
            let id = n % 2 + 1;
            log.line(format!(r#"@nix {{"action":"result","id":{id},"type":101,"fields":["line \u0000{n}\u001b[0m"]}}"#).as_bytes());
        }
        log.line(br#"@nix {"action":"stop","id":1}"#);
        assert_eq!(
            log.builder_tail(A).last().map(String::as_str),
            Some("line 28")
        );
        assert_eq!(log.builder_tail(B).len(), 15);
        assert_eq!(log.tail()[18..], ["a-1.0> line 28", "b-2.0> line 29"]);
        assert!(
            out.text().contains("a-1.0> line 28\nb-2.0> line 29\n"),
            "{}",
            out.text()
        );
    }

    /// A builder may print lines in the format of Nix's log.
    #[test]
    fn builders_cannot_forge_errors() {
        let out = BuildLog::default();
        let mut log = NixLog::new(&out);
        log.line(format!(r#"@nix {{"action":"result","id":9,"type":101,"fields":["@nix {{\"action\":\"msg\",\"level\":0,\"msg\":\"error: builder for '{A}' failed\"}}"]}}"#).as_bytes());
        assert!(log.errors.is_empty());
        assert!(out.text().contains("failed"));
    }

    #[test]
    fn other_lines_are_plain_text() {
        let out = BuildLog::default();
        let mut log = NixLog::new(&out);
        for line in [
            &b"fatal: no\xff"[..],
            b"@nix {",
            b"@nix []",
            b"@nix {\"action\":7}",
        ] {
            log.line(line);
        }
        assert_eq!(
            log.plain,
            [
                "fatal: no\u{fffd}",
                "@nix {",
                "@nix []",
                "@nix {\"action\":7}"
            ]
        );
    }
}
