//! What a call has met on its way: answers that were errors, and none at all.

use std::io;
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, StatusCode};

/// Why no answer came.
#[derive(Debug)]
pub(super) enum Fault {
    /// Nothing moved for too long.
    TimedOut(String),
    /// No connection, or it broke.
    Broken(String),
    /// The request is impossible as it is.
    Impossible(String),
    /// The file to upload cannot be read.
    Spool(io::Error),
}

/// An answer's status, and the store's own code for an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `NoSuchKey`, `notFound`.
    pub(super) code: Option<String>,
    /// The store's sentence.
    pub(super) message: Option<String>,
}

/// What the requests of one call met; the last of them counts.
#[derive(Debug, Default)]
pub(super) struct Seen {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    attempts: u32,
    answer: Option<Answer>,
    headers: HeaderMap,
    fault: Option<Fault>,
    /// The attempts of a request were used up.
    exhausted: bool,
    /// A request was sent more than once.
    repeated: bool,
    /// Why a service that gives credentials gave none.
    no_credentials: Option<String>,
}

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, attempt: u32) {
        let mut inner = self.lock();
        inner.attempts = attempt;
        inner.repeated |= attempt > 1;
        inner.answer = None;
        inner.fault = None;
    }

    pub(super) fn answered(&self, answer: Answer, headers: HeaderMap) {
        let mut inner = self.lock();
        inner.answer = Some(answer);
        inner.headers = headers;
        inner.fault = None;
    }

    pub(super) fn failed(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    pub(super) fn no_credentials(&self, why: String) {
        self.lock().no_credentials = Some(why);
    }

    pub(super) fn why_no_credentials(&self) -> Option<String> {
        self.lock().no_credentials.clone()
    }

    pub(super) fn gave_up(&self) {
        self.lock().exhausted = true;
    }

    pub(super) fn attempts(&self) -> u32 {
        self.lock().attempts
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        self.lock().answer.clone()
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        self.lock().answer.as_ref().map(|answer| answer.status)
    }

    pub(super) fn headers(&self) -> HeaderMap {
        self.lock().headers.clone()
    }

    pub(super) fn exhausted(&self) -> bool {
        self.lock().exhausted
    }

    /// Whether an earlier attempt may have done what a later one was refused for.
    pub(super) fn repeated(&self) -> bool {
        self.lock().repeated
    }

    pub(super) fn take_fault(&self) -> Option<Fault> {
        self.lock().fault.take()
    }
}

impl Answer {
    /// Reads an error's body: S3 sends XML, GCS JSON, proxies anything.
    pub(super) fn parse(status: StatusCode, body: &[u8]) -> Self {
        let (code, message) = match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(json) => {
                let error = &json["error"];
                let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
                let code = text(&error["errors"][0]["reason"]).or_else(|| text(error));
                (code, text(&error["message"]))
            }
            Err(_) => {
                let body = String::from_utf8_lossy(body);
                (element(&body, "Code"), element(&body, "Message"))
            }
        };
        let short = |text: String| text.chars().filter(|c| !c.is_control()).take(200).collect();
        Self {
            status,
            code: code.map(short),
            message: message.map(short),
        }
    }

    pub(super) fn has_code(&self, codes: &[&str]) -> bool {
        self.code
            .as_deref()
            .is_some_and(|code| codes.contains(&code))
    }

    /// Whether the same request may be answered otherwise a little later.
    pub(super) fn is_temporary(&self) -> bool {
        const CODES: &[&str] = &[
            "ConditionalRequestConflict",
            "InternalError",
            "OperationAborted",
            "RequestTimeout",
            "ServiceUnavailable",
            "SlowDown",
        ];
        matches!(
            self.status.as_u16(),
            408 | 429 | 499 | 500 | 502 | 503 | 504
        ) || (!self.status.is_success() && self.has_code(CODES))
    }
}

fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.to_owned())
}
