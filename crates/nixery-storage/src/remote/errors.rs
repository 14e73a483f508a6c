//! What happened to the requests of a call, what a failure means, and what to do about it.

use std::io;

use http::{HeaderMap, StatusCode};
use opendal::ErrorKind;

use crate::error::Class;

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// No byte moved for too long.
    TimedOut(String),
    /// No connection could be made, or it broke.
    Disconnected(String),
    /// The request is invalid and cannot be sent.
    Invalid(String),
    /// The file to upload cannot be read.
    Spool(io::Error),
}

/// An answer without its body, but with what the body says of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The store's code of an error, `NoSuchKey` or `notFound`.
    pub(super) code: Option<String>,
    /// The store's description of an error.
    pub(super) message: Option<String>,
}

/// The outcome of one request, after its last attempt.
#[derive(Debug)]
pub(super) struct RequestOutcome {
    pub(super) attempts: u32,
    /// No attempt succeeded, and further ones are pointless now.
    pub(super) exhausted: bool,
    pub(super) result: Result<Answer, Fault>,
}

/// What happened to the requests of one call. Several requests may run at once, such as the parts
/// of an upload: the first failure counts, or else the last success.
#[derive(Debug, Default)]
pub(super) struct CallLog {
    pub(super) outcome: Option<RequestOutcome>,
    /// A request was sent more than once, so an earlier attempt may have had its effect.
    pub(super) repeated: bool,
    /// Why a service for credentials returned none.
    pub(super) no_credentials: Option<String>,
}

impl CallLog {
    pub(super) fn record(&mut self, outcome: RequestOutcome) {
        self.repeated |= outcome.attempts > 1;
        let has_failed = self.outcome.as_ref().is_some_and(|known| {
            let answer = known.result.as_ref();
            answer.map_or(true, |answer| !answer.status.is_success())
        });
        if !has_failed {
            self.outcome = Some(outcome);
        }
    }

    pub(super) fn answer(&self) -> Option<&Answer> {
        self.outcome.as_ref()?.result.as_ref().ok()
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        Some(self.answer()?.status)
    }
}

impl Answer {
    pub(super) fn success(status: StatusCode, headers: HeaderMap) -> Self {
        Self {
            status,
            headers,
            ..Self::default()
        }
    }

    /// Parses the body of an error: S3 sends XML, GCS sends JSON, proxies send anything.
    pub(super) fn failure(status: StatusCode, headers: HeaderMap, body: &[u8]) -> Self {
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
            headers,
            code: code.map(short),
            message: message.map(short),
        }
    }

    pub(super) fn has_code(&self, codes: &[&str]) -> bool {
        self.code
            .as_deref()
            .is_some_and(|code| codes.contains(&code))
    }

    /// Whether the same request may succeed a little later.
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

    /// The store's code and description in parentheses, or nothing.
    fn details(&self) -> String {
        let details = [self.code.as_deref(), self.message.as_deref()];
        let details: Vec<_> = details.into_iter().flatten().collect();
        match details[..] {
            [] => String::new(),
            _ => format!(" ({})", details.join(", ")),
        }
    }
}

fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.to_owned())
}

const FAILED: Class = Class::Failed { retryable: false };
const RETRYABLE: Class = Class::Failed { retryable: true };

/// The class of a failed call and its description, which contains no secret and no signed URL.
///
/// What happened on the wire decides; opendal's own error is the last resort.
pub(super) fn diagnose(
    error: &opendal::Error,
    outcome: Option<&RequestOutcome>,
    no_credentials: Option<&str>,
    bucket: &str,
) -> (Class, String) {
    let Some(RequestOutcome {
        attempts, result, ..
    }) = outcome
    else {
        return nothing_sent(error, no_credentials);
    };
    let times = match attempts {
        0 | 1 => String::new(),
        n => format!(" ({n} attempts)"),
    };
    match result {
        Err(Fault::TimedOut(why)) => {
            let text = format!("the store did not answer{times}: {why}");
            (RETRYABLE, text)
        }
        Err(Fault::Disconnected(why)) => {
            let text = format!("the store could not be reached{times}: {why}");
            (RETRYABLE, text)
        }
        Err(Fault::Invalid(why)) => (FAILED, why.clone()),
        Err(Fault::Spool(why)) => (FAILED, why.to_string()),
        Ok(answer) if !answer.status.is_success() => {
            let status = answer.status.as_u16();
            let answered = format!("the store answered {status}{}{times}", answer.details());
            match judge(answer, bucket) {
                (class, Some((problem, remedy))) => {
                    (class, format!("{problem}: {answered}. Fix: {remedy}"))
                }
                (class, None) => (class, answered),
            }
        }
        // An error in the body of a success, or a body that cannot be parsed.
        Ok(_) => {
            let kind = error.kind();
            let text = format!("the store's answer is invalid{times}: {kind}");
            (RETRYABLE, text)
        }
    }
}

/// For a call that failed before its first request.
fn nothing_sent(error: &opendal::Error, no_credentials: Option<&str>) -> (Class, String) {
    if let ErrorKind::Unsupported | ErrorKind::ConfigInvalid = error.kind() {
        return (FAILED, error.message().to_owned());
    }
    let remedy = "Fix: set an access key, a profile, a key file or a role, \
                  or use the store anonymously";
    match no_credentials {
        // The service may recover.
        Some(why) => (
            RETRYABLE,
            format!(
                "no credentials were found, and this machine's credential service \
                 returned none ({why}). {remedy}"
            ),
        ),
        None => (
            Class::Denied,
            format!("no credentials were found, or they cannot be used. {remedy}"),
        ),
    }
}

/// Error codes of S3 and GCS that say more than the status.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>,
/// <https://cloud.google.com/storage/docs/json_api/v1/status-codes>
const CLOCK: &[&str] = &["RequestTimeTooSkewed", "RequestExpired"];
const BUCKET: &[&str] = &["NoSuchBucket", "InvalidBucketName"];
const REGION: &[&str] = &[
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
];
const KEYS: &[&str] = &[
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "authError",
];
const FULL: &[&str] = &[
    "InsufficientStorage",
    "QuotaExceeded",
    "StorageFull",
    "XMinioStorageFull",
    "quotaExceeded",
];

/// The class of an error answer, with problem and remedy where they are known.
fn judge(answer: &Answer, bucket: &str) -> (Class, Option<(String, String)>) {
    let hint = |problem: String, remedy: &str| Some((problem, remedy.to_owned()));
    let names_bucket = answer
        .message
        .as_deref()
        .is_some_and(|message| message.contains("bucket does not exist"));
    if answer.has_code(CLOCK) {
        let problem = "the clocks of this machine and the store differ too much".to_owned();
        return (FAILED, hint(problem, "set the clock"));
    }
    if answer.has_code(BUCKET) || names_bucket {
        let problem = format!("there is no bucket `{bucket}`");
        return (FAILED, hint(problem, "create it or correct its name"));
    }
    if answer.has_code(REGION) || answer.status == StatusCode::MOVED_PERMANENTLY {
        let problem = format!("the bucket `{bucket}` is in another region");
        return (FAILED, hint(problem, "set the region"));
    }
    if answer.has_code(KEYS) {
        let problem = "the credentials are wrong or expired".to_owned();
        return (Class::Denied, hint(problem, "replace them"));
    }
    if answer.has_code(FULL) {
        return (Class::NoSpace, None);
    }
    match answer.status {
        StatusCode::UNAUTHORIZED => {
            let problem = "the credentials are missing or wrong".to_owned();
            (Class::Denied, hint(problem, "set or replace them"))
        }
        StatusCode::FORBIDDEN => (
            Class::Denied,
            Some((
                "these credentials do not allow this operation".to_owned(),
                format!("grant them to list, read, write and delete objects of `{bucket}`"),
            )),
        ),
        StatusCode::INSUFFICIENT_STORAGE => (Class::NoSpace, None),
        // A missing object is not an error, so this is about the bucket.
        StatusCode::NOT_FOUND => {
            let problem = format!("there is no bucket `{bucket}`, or no store at this address");
            (FAILED, hint(problem, "correct the bucket or the endpoint"))
        }
        _ => {
            let retryable = answer.is_temporary() || answer.status == StatusCode::CONFLICT;
            (Class::Failed { retryable }, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn answer(status: u16, code: Option<&str>) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            code: code.map(str::to_owned),
            ..Answer::default()
        }
    }

    #[rstest]
    #[case(401, None, Class::Denied, "credentials")]
    #[case(403, Some("AccessDenied"), Class::Denied, "grant")]
    #[case(403, Some("InvalidAccessKeyId"), Class::Denied, "wrong or expired")]
    #[case(403, Some("SignatureDoesNotMatch"), Class::Denied, "wrong or expired")]
    #[case(403, Some("RequestTimeTooSkewed"), FAILED, "clock")]
    #[case(403, Some("quotaExceeded"), Class::NoSpace, "")]
    #[case(507, None, Class::NoSpace, "")]
    #[case(404, Some("NoSuchBucket"), FAILED, "no bucket `b`")]
    #[case(404, None, FAILED, "no bucket `b`")]
    #[case(301, None, FAILED, "another region")]
    #[case(400, Some("AuthorizationHeaderMalformed"), FAILED, "another region")]
    #[case(400, None, FAILED, "")]
    #[case(400, Some("RequestTimeout"), RETRYABLE, "")]
    #[case(409, Some("OperationAborted"), RETRYABLE, "")]
    #[case(429, None, RETRYABLE, "")]
    #[case(500, Some("InternalError"), RETRYABLE, "")]
    #[case(501, Some("NotImplemented"), FAILED, "")]
    #[case(503, Some("SlowDown"), RETRYABLE, "")]
    fn answers_are_classified(
        #[case] status: u16,
        #[case] code: Option<&str>,
        #[case] class: Class,
        #[case] hint: &str,
    ) {
        let outcome = RequestOutcome {
            attempts: 1,
            exhausted: false,
            result: Ok(answer(status, code)),
        };
        let error = opendal::Error::new(ErrorKind::Unexpected, "");
        let (actual, text) = diagnose(&error, Some(&outcome), None, "b");
        assert_eq!(actual, class);
        assert!(text.contains(hint), "{text}");
        assert!(text.contains(&format!("answered {status}")), "{text}");
    }

    #[rstest]
    #[case(
        "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>It is\nnot there</Message></Error>",
        Some("NoSuchKey"),
        Some("It isnot there")
    )]
    #[case(
        r#"{"error":{"code":404,"message":"No such object: b/o","errors":[{"reason":"notFound"}]}}"#,
        Some("notFound"),
        Some("No such object: b/o")
    )]
    #[case(r#"{"error":"invalid_grant"}"#, Some("invalid_grant"), None)]
    #[case("<html>Bad gateway</html>", None, None)]
    #[case("", None, None)]
    #[case("<Code>cut", None, None)]
    fn bodies_of_errors_are_parsed(
        #[case] body: &str,
        #[case] code: Option<&str>,
        #[case] message: Option<&str>,
    ) {
        let answer = Answer::failure(StatusCode::NOT_FOUND, HeaderMap::new(), body.as_bytes());
        assert_eq!(
            (answer.code.as_deref(), answer.message.as_deref()),
            (code, message)
        );
    }

    #[test]
    fn a_failure_is_not_hidden_by_other_requests_of_the_call() {
        let answered = |status| RequestOutcome {
            attempts: 1,
            exhausted: false,
            result: Ok(answer(status, None)),
        };
        let mut log = CallLog::default();
        log.record(answered(201));
        log.record(answered(200));
        assert_eq!(log.status(), Some(StatusCode::OK), "the last success");
        log.record(RequestOutcome {
            attempts: 3,
            exhausted: true,
            result: Err(Fault::TimedOut("why".to_owned())),
        });
        log.record(answered(200));
        log.record(answered(403));
        assert_eq!(log.status(), None, "the first failure");
        assert!(log.repeated);
        let first = log.outcome.take();
        assert!(first.is_some_and(|outcome| outcome.exhausted && outcome.attempts == 3));
        log.record(answered(403));
        assert_eq!(log.status(), Some(StatusCode::FORBIDDEN), "unrelated");
    }
}
