//! Hides the secrets of this process in texts that leave it.
//!
//! Children do not get these secrets. This is the second line of defence: a package set can be
//! written to print what it finds, and a program may repeat a URL with its password. Whoever
//! controls the text can encode a secret so that it is not recognised.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use percent_encoding::percent_decode_str;

/// A shorter value is not hidden, because it would occur in other texts too.
const MIN_BYTES: usize = 8;
/// What is shown instead of a secret.
const HIDDEN: &str = "[hidden]";
/// Words in the name of a variable whose value is secret.
const SECRET_WORDS: &[&str] = &[
    "APIKEY",
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "PASS",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "SALT",
    "SECRET",
    "SIG",
    "SIGNATURE",
    "TOKEN",
    "TOKENS",
];

/// The secrets of this process, the longest first: one may be a part of another.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Returns the text with `[hidden]` in the place of each known secret.
pub fn hide_secrets(text: &str) -> Cow<'_, str> {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    secrets.iter().fold(Cow::Borrowed(text), |text, secret| {
        if text.contains(secret.as_str()) {
            Cow::Owned(text.replace(secret.as_str(), HIDDEN))
        } else {
            text
        }
    })
}

/// Returns the number of bytes of the longest secret.
pub(crate) fn longest_secret() -> usize {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    secrets.first().map_or(0, String::len)
}

/// Hides the value of a secret setting from now on: its credentials if it is a URL, else all of it.
/// Values of less than 8 bytes are not hidden.
pub fn add_secret(value: &str) {
    let mut secrets = Vec::new();
    if value.contains("://") {
        of_urls(value, &mut secrets);
    } else {
        of_value(value, &mut secrets);
    }
    add(secrets);
}

/// Hides the secrets in the environment of this process from now on: values of variables with
/// names such as `AWS_SECRET_ACCESS_KEY`, credentials in URLs, and tokens for Nix and git.
pub fn add_secrets_of_environment() {
    let mut secrets = Vec::new();
    for (name, value) in std::env::vars_os() {
        of_variable(
            &name.to_string_lossy(),
            &value.to_string_lossy(),
            &mut secrets,
        );
    }
    add(secrets);
}

fn add(new: Vec<String>) {
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    secrets.extend(new);
    secrets.sort_unstable_by(|one, other| (other.len(), other).cmp(&(one.len(), one)));
    secrets.dedup();
}

fn of_variable(name: &str, value: &str, secrets: &mut Vec<String>) {
    of_urls(value, secrets);
    if name == "NIX_CONFIG" {
        let settings = value.lines().filter_map(|line| line.split_once('='));
        let tokens = settings.filter(|(setting, _)| setting.trim().ends_with("access-tokens"));
        // "github.com=TOKEN gitlab.com=PAT:TOKEN"
        let hosts = tokens.flat_map(|(_, hosts)| hosts.split_whitespace());
        for (_, token) in hosts.filter_map(|host| host.split_once('=')) {
            of_value(token.rsplit(':').next().unwrap_or(token), secrets);
        }
    } else if name.starts_with("GIT_CONFIG_") {
        // "Authorization: Bearer TOKEN"
        if value.to_ascii_lowercase().contains("authorization:") {
            of_value(value.rsplit(' ').next().unwrap_or(value), secrets);
        }
    } else if is_secret(name) && !names_a_file(value) {
        of_value(value, secrets);
    }
}

/// Whether a value is the path of a file, as that of `AWS_WEB_IDENTITY_TOKEN_FILE`.
fn names_a_file(value: &str) -> bool {
    let path = Path::new(value);
    path.is_absolute() && path.exists()
}

/// Whether the name of a variable, or of a parameter of a URL, is that of a secret.
fn is_secret(name: &str) -> bool {
    let mut words = name.split(['_', '-']);
    words.any(|word| {
        SECRET_WORDS
            .iter()
            .any(|secret| word.eq_ignore_ascii_case(secret))
    })
}

/// Adds each line of a value. A log has a secret of several lines in parts.
fn of_value(value: &str, secrets: &mut Vec<String>) {
    let lines = value.lines().map(str::trim);
    let long = lines.filter(|line| line.len() >= MIN_BYTES);
    secrets.extend(long.map(str::to_owned));
}

/// Adds user names, passwords and signatures in the URLs of a text, as they are written and without
/// percent encoding.
fn of_urls(text: &str, secrets: &mut Vec<String>) {
    for (at, separator) in text.match_indices("://") {
        let url = &text[at + separator.len()..];
        let url = url.split(char::is_whitespace).next().unwrap_or(url);
        let authority = url.split('/').next().unwrap_or(url);
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        let (user, password) =
            user.map_or(("", ""), |user| user.split_once(':').unwrap_or((user, "")));
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let parameters = query.split('&').filter_map(|pair| pair.split_once('='));
        let signatures = parameters.filter_map(|(name, value)| is_secret(name).then_some(value));
        for secret in [user, password].into_iter().chain(signatures) {
            of_value(secret, secrets);
            of_value(&percent_decode_str(secret).decode_utf8_lossy(), secrets);
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::aws("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MD", &["wJalrXUtnFEMI/K7MD"])]
    #[case::session("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEB", &["FwoGZXIvYXdzEB"])]
    #[case::region("AWS_REGION", "eu-central-1", &[])]
    #[case::file("AWS_WEB_IDENTITY_TOKEN_FILE", "/dev/null", &[])]
    #[case::short("SOME_TOKEN", "1234567", &[])]
    #[case::word_in_a_word("KEYBOARD_LAYOUT", "us-international", &[])]
    #[case::lines("TLS_KEY", "-----BEGIN KEY-----\nMIIEvQIBADANB\n", &["-----BEGIN KEY-----", "MIIEvQIBADANB"])]
    #[case::password("HTTPS_PROXY", "http://me:p%40ssw0rd1@proxy:3128", &["p%40ssw0rd1", "p@ssw0rd1"])]
    #[case::token_as_user("X", "https://ghp_0123456789@github.com/a/b", &["ghp_0123456789"])]
    #[case::signature("X", "https://host/plan?v=12345678&X-Amz-Signature=0123abcd0", &["0123abcd0"])]
    #[case::nix("NIX_CONFIG", "cores = 4\naccess-tokens = github.com=ghp_987654321 gitlab.com=PAT:glpat-12345", &["ghp_987654321", "glpat-12345"])]
    #[case::git("GIT_CONFIG_VALUE_0", "Authorization: Bearer ya29.abcdef", &["ya29.abcdef"])]
    #[case::key_of_git("GIT_CONFIG_KEY_0", "http.extraheader", &[])]
    #[case::no_secret_of_git("GIT_CONFIG_VALUE_0", "https://mirror.example.org/", &[])]
    fn secrets_of_variables(#[case] name: &str, #[case] value: &str, #[case] expected: &[&str]) {
        let mut secrets = Vec::new();
        of_variable(name, value, &mut secrets);
        secrets.dedup();
        assert_eq!(secrets, expected);
    }

    #[test]
    fn secrets_are_hidden_in_texts() {
        add_secret("test-salt-0123456789");
        add_secret("https://someone:test-hunter2@example.org/pkgs.git");
        let text = "salt test-salt-0123456789, git clone https://someone:test-hunter2@example.org";
        assert_eq!(
            hide_secrets(text),
            "salt [hidden], git clone https://someone:[hidden]@example.org"
        );
        let url = "https://example.org/pkgs.git is no secret";
        assert!(matches!(hide_secrets(url), Cow::Borrowed(text) if text == url));
    }

    /// A secret that is the start of another one must not uncover the rest of it.
    #[test]
    fn the_longest_secret_is_hidden_first() {
        add_secret("test-prefix-of");
        add_secret("test-prefix-of-another");
        assert_eq!(hide_secrets("a test-prefix-of-another b"), "a [hidden] b");
    }
}
