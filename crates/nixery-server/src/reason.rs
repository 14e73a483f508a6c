//! The reason phrase of an error (RFC 9112, section 4).
//!
//! containerd, Kubernetes and newer versions of Docker and `BuildKit` print no body of an error,
//! but they print the status line of HTTP/1.1. So the reason phrase says what the body says, as far
//! as one line can.

use http::StatusCode;
use hyper::ext::ReasonPhrase;

/// Bytes of a reason phrase, so that it stays one line on a wide terminal, or two.
const MAX_BYTES: usize = 240;
/// Stands at the end of a message that was cut.
const CUT: &str = "...";

/// Returns the reason phrase of an error that people have to read; `None` for other statuses.
/// `log` is where the complete log is.
pub(crate) fn reason_phrase(
    status: StatusCode,
    message: &str,
    log: Option<&str>,
) -> Option<ReasonPhrase> {
    let is_for_people = matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
    );
    if !is_for_people {
        return None;
    }
    let log = log.map(|log| format!(", log {log}")).unwrap_or_default();
    let line = message.lines().next().unwrap_or_default();
    let text = cut(line, MAX_BYTES.saturating_sub(log.len())) + &log;
    // The grammar allows other bytes, but no encoding for them.
    let clean = |byte: u8| match byte {
        b' '..=b'~' => byte,
        _ => b'?',
    };
    let text: Vec<_> = text.bytes().map(clean).collect();
    ReasonPhrase::try_from(text).ok()
}

/// Cuts a text that has more bytes than this at a space.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub(CUT.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let kept = &text[..end];
    let kept = kept.rsplit_once(' ').map_or(kept, |(kept, _)| kept);
    format!("{kept}{CUT}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn phrase(status: u16, message: &str, log: Option<&str>) -> Option<String> {
        let status = StatusCode::from_u16(status).expect("a status");
        let phrase = reason_phrase(status, message, log)?;
        Some(String::from_utf8(phrase.as_bytes().to_vec()).expect("ASCII"))
    }

    #[rstest]
    #[case(403, "you may not pull `htop`", None, Some("you may not pull `htop`"))]
    #[case(401, "the token has expired", None, Some("the token has expired"))]
    #[case(422, "it failed: a\nThe log: b", None, Some("it failed: a"))]
    #[case(
        422,
        "it failed",
        Some("http://h/builds/1"),
        Some("it failed, log http://h/builds/1")
    )]
    #[case(503, "caf\u{e9}\t", None, Some("caf???"))]
    #[case(404, "no such package", None, None)]
    #[case(200, "", None, None)]
    fn errors_for_people_have_a_phrase(
        #[case] status: u16,
        #[case] message: &str,
        #[case] log: Option<&str>,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(phrase(status, message, log).as_deref(), expected);
    }

    #[test]
    fn a_long_message_is_cut_between_words_and_keeps_the_log() {
        let log = "https://nixery.example.org/builds/0123456789abcdef";
        let phrase = phrase(422, &"word ".repeat(100), Some(log)).expect("a phrase");
        assert!(phrase.ends_with(&format!("word..., log {log}")), "{phrase}");
        assert!(phrase.len() <= MAX_BYTES, "{phrase}");
    }

    proptest! {
        #[test]
        fn every_phrase_is_one_line_of_ascii(message in any::<String>(), log in ".{0,300}") {
            let phrase = phrase(429, &message, Some(&log)).expect("a phrase");
            prop_assert!(phrase.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(phrase.len() <= MAX_BYTES.max(log.len() + 10));
        }
    }
}
