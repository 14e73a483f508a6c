//! The repository of a package source: its address, and the credentials in it.
//!
//! The arguments of a command are visible to all users of a machine, and are logged. So credentials
//! are taken out of the address, and git asks a helper for them, which reads them from variables of
//! git's environment.

use std::fmt;

use percent_encoding::percent_decode_str;

/// Variables of the helper.
const USER: &str = "NIXERY_GIT_USER";
const PASSWORD: &str = "NIXERY_GIT_PASSWORD";
/// What git runs to get the credentials. It runs with an argument: get, store or erase.
const HELPER: &str = r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$NIXERY_GIT_USER" "$NIXERY_GIT_PASSWORD"; }; f"#;

/// A repository that git can fetch from.
#[derive(Debug)]
pub(super) struct Remote {
    /// Its address without credentials.
    pub(super) url: String,
    credentials: Option<Credentials>,
}

struct Credentials {
    /// Scheme, host and port.
    origin: String,
    user: String,
    /// `None`: the helpers of the operator know it.
    password: Option<String>,
}

/// Without user name and password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Splits an address. ssh takes a user name and no password; its user name stays, as it is no
    /// secret.
    pub(super) fn new(address: &str) -> Self {
        let plain = || Self {
            url: address.to_owned(),
            credentials: None,
        };
        let Some((scheme, rest)) = address.split_once("://") else {
            return plain();
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let Some((user_info, host)) = authority.rsplit_once('@') else {
            return plain();
        };
        let (user, password) = match user_info.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (user_info, None),
        };
        let origin = format!("{scheme}://{host}");
        if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return Self {
                url: format!("{scheme}://{user}@{host}{path}"),
                credentials: None,
            };
        }
        // What git's protocol for helpers cannot pass on would end it early.
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8_lossy();
            text.replace(['\0', '\r', '\n'], "")
        };
        Self {
            url: format!("{origin}{path}"),
            credentials: Some(Credentials {
                origin,
                user: decoded(user),
                password: password.map(decoded),
            }),
        }
    }

    /// Returns the variables with which git finds the credentials, besides `configured` entries of
    /// git's configuration that the environment has already (`GIT_CONFIG_COUNT`).
    ///
    /// The helper is asked for this host only. If there is a password, other helpers are not asked:
    /// they could store it. A user name alone may be a token, so the helper answers as the last
    /// one if no other knows a password.
    pub(super) fn environment(&self, configured: usize) -> Vec<(String, String)> {
        let Some(credentials) = &self.credentials else {
            return Vec::new();
        };
        let scope = format!("credential.{}", credentials.origin);
        let helper = format!("{scope}.helper");
        let first = match credentials.password {
            // Forgets the helpers before.
            Some(_) => (helper.clone(), ""),
            // Tells them who asks.
            None => (format!("{scope}.username"), credentials.user.as_str()),
        };
        let entries = [first, (helper, HELPER)];
        let password = credentials.password.clone().unwrap_or_default();
        let count = configured + entries.len();
        let mut variables = vec![
            (USER.to_owned(), credentials.user.clone()),
            (PASSWORD.to_owned(), password),
            ("GIT_CONFIG_COUNT".to_owned(), count.to_string()),
        ];
        for (index, (key, value)) in (configured..).zip(entries) {
            variables.push((format!("GIT_CONFIG_KEY_{index}"), key));
            variables.push((format!("GIT_CONFIG_VALUE_{index}"), value.to_owned()));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::password("https://me:s3cret@example.org/x.git", "https://example.org/x.git", Some(("me", Some("s3cret"))))]
    #[case::token("https://t0ken@example.org:8443/x.git", "https://example.org:8443/x.git", Some(("t0ken", None)))]
    #[case::empty("https://me:@example.org/x.git", "https://example.org/x.git", Some(("me", Some(""))))]
    #[case::encoded("http://a%40b:c%3Ad%2Fe@host", "http://host", Some(("a@b", Some("c:d/e"))))]
    #[case::unencoded("https://me:a?b#c@d@host/x@y", "https://host/x@y", Some(("me", Some("a?b#c@d"))))]
    #[case::line_break("https://me:a%0Ahost=evil@host/x", "https://host/x", Some(("me", Some("ahost=evil"))))]
    #[case::none("https://example.org/x@y.git", "https://example.org/x@y.git", None)]
    #[case::ssh("ssh://git:s3cret@example.org/x", "ssh://git@example.org/x", None)]
    #[case::scp("git@example.org:x.git", "git@example.org:x.git", None)]
    #[case::path("/srv/a@b", "/srv/a@b", None)]
    fn credentials_are_taken_out_of_the_address(
        #[case] address: &str,
        #[case] url: &str,
        #[case] credentials: Option<(&str, Option<&str>)>,
    ) {
        let remote = Remote::new(address);
        assert_eq!(remote.url, url);
        let found = remote.credentials.as_ref();
        let found = found.map(|found| (found.user.as_str(), found.password.as_deref()));
        assert_eq!(found, credentials);
    }

    #[test]
    fn the_helper_is_added_to_what_the_environment_configures() {
        let remote = Remote::new("https://me:s3cret@example.org/x.git");
        let variables = remote.environment(3);
        let value = |name: &str| {
            let found = variables.iter().find(|(variable, _)| variable == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("GIT_CONFIG_COUNT"), Some("5"));
        assert_eq!(
            value("GIT_CONFIG_KEY_3"),
            Some("credential.https://example.org.helper")
        );
        assert_eq!(value("GIT_CONFIG_VALUE_3"), Some(""));
        assert_eq!(value("GIT_CONFIG_VALUE_4"), Some(HELPER));
        assert_eq!(value(PASSWORD), Some("s3cret"));
        assert_eq!(Remote::new("https://example.org/x").environment(3), []);
        assert!(!format!("{remote:?}").contains("s3cret"));
    }
}
