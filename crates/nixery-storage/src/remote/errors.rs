//! What a failure means, in words for an operator.

use http::StatusCode;
use opendal::ErrorKind;

use super::fault::{Answer, End, Fault, Met};

/// The variant of [`StorageError`](crate::StorageError) a failure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Denied,
    NoSpace,
    Failed { retryable: bool },
}

/// A failure's class, what it is, and what to do about it. No secrets, no signed URLs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Diagnosis {
    pub(super) class: Class,
    pub(super) words: String,
}

/// Answers of S3 and GCS that say more than their status.
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

/// Judges by what was on the wire; opendal's words are only the last resort.
pub(super) fn diagnose(
    error: &opendal::Error,
    met: Option<&Met>,
    no_credentials: Option<String>,
    bucket: &str,
) -> Diagnosis {
    let attempts = match met.map_or(0, |met| met.attempts) {
        0 | 1 => String::new(),
        n => format!(", {n} times"),
    };
    let failed = |retryable, words| Diagnosis {
        class: Class::Failed { retryable },
        words,
    };
    match met.map(|met| &met.end) {
        Some(End::Unanswered(Fault::TimedOut(why))) => {
            failed(true, format!("the store did not answer{attempts}: {why}"))
        }
        Some(End::Unanswered(Fault::Broken(why))) => failed(
            true,
            format!("the store could not be reached{attempts}: {why}"),
        ),
        Some(End::Unanswered(Fault::Impossible(why))) => failed(false, why.clone()),
        Some(End::Unanswered(Fault::Spool(why))) => failed(false, why.to_string()),
        Some(End::Answered(answer, _)) if !answer.status.is_success() => {
            let (class, hint) = judge(answer, bucket);
            let said = [&answer.code, &answer.message]
                .into_iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            let said = if said.is_empty() {
                said
            } else {
                format!(" ({said})")
            };
            let status = answer.status.as_u16();
            Diagnosis {
                class,
                words: format!("{hint}the store answered {status}{said}{attempts}"),
            }
        }
        // An error within a success, or an answer that makes no sense.
        Some(End::Answered(..)) => failed(
            true,
            format!(
                "the store's answer makes no sense{attempts}: {}",
                error.kind()
            ),
        ),
        // Nothing was sent.
        None => match error.kind() {
            ErrorKind::Unsupported | ErrorKind::ConfigInvalid => {
                failed(false, error.message().to_owned())
            }
            _ => {
                let hint = "give an access key, a profile, a key file or a role, \
                            or use the store anonymously";
                match no_credentials {
                    // The service may come back.
                    Some(why) => failed(
                        true,
                        format!(
                            "no credentials were found, and the machine's service for them \
                             gave none ({why}): {hint}"
                        ),
                    ),
                    None => Diagnosis {
                        class: Class::Denied,
                        words: format!("no credentials were found, or they cannot be used: {hint}"),
                    },
                }
            }
        },
    }
}

/// The class, and a sentence about what to do, which ends so that the answer can follow.
fn judge(answer: &Answer, bucket: &str) -> (Class, String) {
    let permanent = Class::Failed { retryable: false };
    let says_bucket = answer
        .message
        .as_deref()
        .is_some_and(|message| message.contains("bucket does not exist"));
    if answer.has_code(CLOCK) {
        return (
            permanent,
            "this machine's clock and the store's differ too much, set the clock: ".to_owned(),
        );
    }
    if answer.has_code(BUCKET) || says_bucket {
        return (
            permanent,
            format!("there is no bucket `{bucket}`, create it or mend its name: "),
        );
    }
    if answer.has_code(REGION) || answer.status == StatusCode::MOVED_PERMANENTLY {
        return (
            permanent,
            format!("the bucket `{bucket}` is in another region, set the region: "),
        );
    }
    if answer.has_code(KEYS) {
        return (
            Class::Denied,
            "the credentials are wrong or expired, mend them: ".to_owned(),
        );
    }
    if answer.has_code(FULL) {
        return (Class::NoSpace, String::new());
    }
    match answer.status {
        StatusCode::UNAUTHORIZED => (
            Class::Denied,
            "the credentials are missing or wrong, mend them: ".to_owned(),
        ),
        StatusCode::FORBIDDEN => (
            Class::Denied,
            format!(
                "these credentials may not do that, grant them to list, read, write and delete objects of `{bucket}`: "
            ),
        ),
        StatusCode::INSUFFICIENT_STORAGE => (Class::NoSpace, String::new()),
        // Objects that do not exist are no errors, so this is about the bucket.
        StatusCode::NOT_FOUND => (
            permanent,
            format!("there is no bucket `{bucket}`, or no such store at this address: "),
        ),
        _ => (
            Class::Failed {
                retryable: answer.is_temporary() || answer.status == StatusCode::CONFLICT,
            },
            String::new(),
        ),
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
            message: None,
        }
    }

    #[rstest]
    #[case(401, None, Class::Denied, "credentials")]
    #[case(403, Some("AccessDenied"), Class::Denied, "grant")]
    #[case(403, Some("InvalidAccessKeyId"), Class::Denied, "wrong or expired")]
    #[case(403, Some("SignatureDoesNotMatch"), Class::Denied, "wrong or expired")]
    #[case(403, Some("RequestTimeTooSkewed"), Class::Failed { retryable: false }, "clock")]
    #[case(403, Some("quotaExceeded"), Class::NoSpace, "")]
    #[case(507, None, Class::NoSpace, "")]
    #[case(404, Some("NoSuchBucket"), Class::Failed { retryable: false }, "no bucket `b`")]
    #[case(404, None, Class::Failed { retryable: false }, "no bucket `b`")]
    #[case(301, None, Class::Failed { retryable: false }, "another region")]
    #[case(400, Some("AuthorizationHeaderMalformed"), Class::Failed { retryable: false }, "another region")]
    #[case(400, None, Class::Failed { retryable: false }, "")]
    #[case(400, Some("RequestTimeout"), Class::Failed { retryable: true }, "")]
    #[case(409, Some("OperationAborted"), Class::Failed { retryable: true }, "")]
    #[case(429, None, Class::Failed { retryable: true }, "")]
    #[case(500, Some("InternalError"), Class::Failed { retryable: true }, "")]
    #[case(501, Some("NotImplemented"), Class::Failed { retryable: false }, "")]
    #[case(503, Some("SlowDown"), Class::Failed { retryable: true }, "")]
    fn answers_are_told_apart(
        #[case] status: u16,
        #[case] code: Option<&str>,
        #[case] class: Class,
        #[case] hint: &str,
    ) {
        let (actual, words) = judge(&answer(status, code), "b");
        assert_eq!(actual, class);
        assert!(words.contains(hint), "{words}");
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
    fn bodies_of_errors_are_read(
        #[case] body: &str,
        #[case] code: Option<&str>,
        #[case] message: Option<&str>,
    ) {
        let answer = Answer::parse(StatusCode::NOT_FOUND, body.as_bytes());
        assert_eq!(
            (answer.code.as_deref(), answer.message.as_deref()),
            (code, message)
        );
    }
}
