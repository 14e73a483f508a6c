//! HTTP through `curl`, headers and all.

use crate::command::run;
use std::process::Command;

/// One answer, the last one where redirects were followed.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text, lossily decoded.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is not JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

/// GET, redirects not followed.
#[track_caller]
pub fn get(url: &str) -> Response {
    request(&[url])
}

/// GET, redirects followed as clients do (ten at most).
#[track_caller]
pub fn get_following(url: &str) -> Response {
    request(&["-L", "--max-redirs", "10", url])
}

/// GET, redirects not followed; `None` where the connection ends without an answer.
pub fn try_get(url: &str) -> Option<Response> {
    attempt(&[url]).ok()
}

/// Any request, by curl's own arguments.
///
/// # Panics
/// Curl gets no answer.
#[track_caller]
pub fn request(arguments: &[&str]) -> Response {
    attempt(arguments).unwrap_or_else(|said| panic!("{said}"))
}

/// The answer, or what curl said instead.
pub(crate) fn attempt(arguments: &[&str]) -> Result<Response, String> {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let (head, body) = (directory.path().join("head"), directory.path().join("body"));
    let ran = run(Command::new("curl")
        .args(["-sS", "--max-time", "300", "-D"])
        .arg(&head)
        .arg("-o")
        .arg(&body)
        .args(arguments));
    if !ran.ok {
        return Err(format!("`{}` failed: {}", ran.line, ran.stderr));
    }
    let head = std::fs::read_to_string(&head).expect("curl wrote the headers");
    // One block per answer on the way; the last one counts.
    let last = head
        .trim_end()
        .rsplit("\r\n\r\n")
        .next()
        .expect("rsplit yields at least one part");
    let mut lines = last.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    Ok(Response {
        status: status.unwrap_or_else(|| panic!("no status line in {head:?}")),
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        body: std::fs::read(&body).unwrap_or_default(),
    })
}
