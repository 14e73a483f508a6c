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

/// What became of one request.
#[derive(Debug)]
pub(super) struct Met {
    /// How often it was sent.
    pub(super) attempts: u32,
    /// All attempts that it is worth were made, and none was answered for good.
    pub(super) exhausted: bool,
    pub(super) end: End,
}

/// How the last attempt of a request ended.
#[derive(Debug)]
pub(super) enum End {
    Answered(Answer, HeaderMap),
    Unanswered(Fault),
}

impl Met {
    fn is_failure(&self) -> bool {
        match &self.end {
            End::Answered(answer, _) => !answer.status.is_success(),
            End::Unanswered(_) => true,
        }
    }
}

/// What the requests of one call met. Several may be on their way at once, the parts of an upload:
/// the first that fails counts, or else the last.
#[derive(Debug, Default)]
pub(super) struct Seen {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    met: Option<Met>,
    /// A request was sent more than once.
    repeated: bool,
    /// Why a service that gives credentials gave none.
    no_credentials: Option<String>,
}

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what became of a request.
    pub(super) fn met(&self, met: Met) {
        let mut inner = self.lock();
        inner.repeated |= met.attempts > 1;
        if !inner.met.as_ref().is_some_and(Met::is_failure) {
            inner.met = Some(met);
        }
    }

    /// What counts, for the last time: what comes afterwards is another matter.
    pub(super) fn take(&self) -> Option<Met> {
        self.lock().met.take()
    }

    pub(super) fn no_credentials(&self, why: String) {
        self.lock().no_credentials = Some(why);
    }

    pub(super) fn why_no_credentials(&self) -> Option<String> {
        self.lock().no_credentials.clone()
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        match &self.lock().met.as_ref()?.end {
            End::Answered(answer, _) => Some(answer.clone()),
            End::Unanswered(_) => None,
        }
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        Some(self.answer()?.status)
    }

    pub(super) fn headers(&self) -> HeaderMap {
        match self.lock().met.as_ref().map(|met| &met.end) {
            Some(End::Answered(_, headers)) => headers.clone(),
            _ => HeaderMap::new(),
        }
    }

    pub(super) fn exhausted(&self) -> bool {
        self.lock().met.as_ref().is_some_and(|met| met.exhausted)
    }

    /// Whether an earlier attempt may have done what a later one was refused for.
    pub(super) fn repeated(&self) -> bool {
        self.lock().repeated
    }
}

impl Answer {
    pub(super) fn success(status: StatusCode) -> Self {
        Self {
            status,
            code: None,
            message: None,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: StatusCode) -> Met {
        Met {
            attempts: 1,
            exhausted: false,
            end: End::Answered(Answer::success(status), HeaderMap::new()),
        }
    }

    #[test]
    fn what_failed_is_not_covered_up_by_other_requests_of_the_call() {
        let seen = Seen::default();
        seen.met(answered(StatusCode::CREATED));
        seen.met(answered(StatusCode::OK));
        assert_eq!(seen.status(), Some(StatusCode::OK), "the last success");
        seen.met(Met {
            attempts: 3,
            exhausted: true,
            end: End::Unanswered(Fault::TimedOut("why".to_owned())),
        });
        seen.met(answered(StatusCode::OK));
        seen.met(answered(StatusCode::FORBIDDEN));
        assert_eq!(seen.status(), None, "the first failure");
        assert!(seen.exhausted() && seen.repeated());
        assert!(matches!(seen.take(), Some(Met { attempts: 3, .. })));
        seen.met(answered(StatusCode::FORBIDDEN));
        assert_eq!(seen.status(), Some(StatusCode::FORBIDDEN), "another matter");
    }
}
