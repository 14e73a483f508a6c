//! The settings of access: who may pull what.

use std::path::PathBuf;
use std::time::Duration;

use crate::arguments::Section;
use crate::check::Checker;
use crate::table::{
    BLOB_DELIVERY, Group, HTPASSWD, POLICY, TLS_CERT, TLS_KEY, TOKEN_GROUPS, TOKEN_ISSUER,
    TOKEN_KEY, TOKEN_KEYS, TOKEN_LIFETIME, TOKEN_REALM, TOKEN_SERVICE, TOKENS, TRUSTED_PROXIES,
};
use crate::{BlobDelivery, ServerSettings};

/// The longest lifetime of a token: what it allows cannot be taken back.
const MAX_LIFETIME: u64 = 24 * 60 * 60;
/// The issuer of this server's own tokens.
const OWN_ISSUER: &str = "nixery";

/// Checked settings of access.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessSettings {
    /// File with users and the hashes of their passwords.
    pub htpasswd: Option<PathBuf>,
    /// File with the tokens of programs.
    pub tokens: Option<PathBuf>,
    /// File that says who may pull what.
    pub policy: Option<PathBuf>,
    /// The token service, if clients use one.
    pub token_service: Option<TokenSettings>,
    /// A warning for each setting that is set and has no effect.
    pub ignored: Vec<String>,
}

/// Checked settings of tokens in the format of the distribution specification.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenSettings {
    /// The name of this registry.
    pub service: String,
    /// Who issues tokens.
    pub realm: TokenRealm,
}

/// Who issues tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRealm {
    /// This server.
    Own {
        /// The name of the issuer in its tokens.
        issuer: String,
        /// File with the private key; `None` for a random one.
        key: Option<PathBuf>,
        /// How long a token is valid.
        lifetime: Duration,
    },
    /// Another service.
    Other {
        /// Its URL.
        url: String,
        /// The issuer that its tokens must name, if any.
        issuer: Option<String>,
        /// Where its keys are.
        keys: KeyLocation,
        /// The claim with the groups of the user.
        groups_claim: String,
    },
}

/// Where a JSON Web Key Set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLocation {
    /// In a file.
    File(PathBuf),
    /// At an http or https URL.
    Url(String),
}

impl AccessSettings {
    /// Whether anything limits who may pull what.
    #[must_use]
    pub const fn is_configured(&self) -> bool {
        self.has_logins() || self.policy.is_some()
    }

    /// Whether users can log in.
    #[must_use]
    pub const fn has_logins(&self) -> bool {
        self.has_passwords() || self.token_service.is_some()
    }

    /// Returns warnings about settings of the server that weaken access.
    #[must_use]
    pub(crate) fn warnings(&self, server: &ServerSettings) -> Vec<String> {
        let http = &server.http;
        let has_tls_before = !http.trusted_proxies.is_empty()
            || (http.public_url.as_ref()).is_some_and(|url| url.starts_with("https://"));
        let is_encrypted = server.tls.is_some() || has_tls_before;
        let mut warnings = Vec::new();
        if self.has_logins() && !is_encrypted && !server.address().is_loopback() {
            warnings.push(format!(
                "passwords and tokens travel unencrypted, because the server has no TLS. Fix: set {TLS_CERT} and {TLS_KEY}, or name the proxy that has TLS in {TRUSTED_PROXIES}"
            ));
        }
        if let Some(TokenSettings {
            realm: TokenRealm::Other { url, keys, .. },
            ..
        }) = &self.token_service
        {
            let keys = match keys {
                KeyLocation::Url(url) => Some((TOKEN_KEYS, url)),
                KeyLocation::File(_) => None,
            };
            for (setting, url) in [Some((TOKEN_REALM, url)), keys].into_iter().flatten() {
                if is_unencrypted(url) {
                    warnings.push(format!(
                        "{setting} is an http URL, so that others on the way can read passwords, or replace the keys that verify tokens. Fix: use https"
                    ));
                }
            }
        }
        if self.is_configured() && http.delivery == BlobDelivery::Public {
            warnings.push(format!(
                "{BLOB_DELIVERY} is `public`, so that everybody who knows the digest of a blob can read it from the store, whatever the policy says. Fix: set it to `redirect` or `proxy`, and make the store private"
            ));
        }
        warnings
    }

    /// Whether users can send a name with a password or a static token.
    #[must_use]
    pub const fn has_passwords(&self) -> bool {
        self.htpasswd.is_some() || self.tokens.is_some()
    }
}

impl Section for AccessSettings {
    const GROUPS: &'static [Group] = &[Group::Access];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let mut settings = Self {
            htpasswd: checker.path(HTPASSWD),
            tokens: checker.path(TOKENS),
            policy: checker.path(POLICY),
            token_service: None,
            ignored: Vec::new(),
        };
        let unused: &[_] = match checker.text(TOKEN_REALM).as_deref() {
            None => &[
                TOKEN_SERVICE,
                TOKEN_ISSUER,
                TOKEN_KEYS,
                TOKEN_KEY,
                TOKEN_LIFETIME,
                TOKEN_GROUPS,
            ],
            Some("self") => &[TOKEN_KEYS, TOKEN_GROUPS],
            Some(_) => &[TOKEN_KEY, TOKEN_LIFETIME],
        };
        settings.ignored = checker.unused(
            unused.iter().copied(),
            "it does not fit the value of NIXERY_TOKEN_REALM",
        );
        settings.token_service = token_settings(checker, settings.has_passwords());
        Some(settings)
    }
}

fn token_settings(checker: &mut Checker<'_>, has_passwords: bool) -> Option<TokenSettings> {
    let realm = checker.text(TOKEN_REALM)?;
    let service = checker.text(TOKEN_SERVICE);
    let service = service.unwrap_or_else(|| TOKEN_SERVICE.default.to_owned());
    if !service.chars().all(is_quotable) {
        let name = checker.name(TOKEN_SERVICE);
        checker.invalid(&name, &service, "a name of visible ASCII without quotes");
    }
    let issuer = checker.text(TOKEN_ISSUER);
    let lifetime = checker.time(TOKEN_LIFETIME, 60..=MAX_LIFETIME);
    let realm = if realm == "self" {
        if !has_passwords {
            checker.missing(
                HTPASSWD,
                "users who can get a token, in NIXERY_HTPASSWD or NIXERY_TOKENS",
            );
        }
        TokenRealm::Own {
            issuer: issuer.unwrap_or_else(|| OWN_ISSUER.to_owned()),
            key: checker.path(TOKEN_KEY),
            lifetime,
        }
    } else {
        if !is_http(&realm) {
            let name = checker.name(TOKEN_REALM);
            checker.invalid(&name, &realm, "`self`, or an http or https URL");
        }
        let Some(keys) = checker.text(TOKEN_KEYS) else {
            checker.missing(TOKEN_KEYS, "the keys of the token service");
            return None;
        };
        let claim = checker.text(TOKEN_GROUPS);
        TokenRealm::Other {
            url: realm,
            issuer,
            keys: key_location(&keys),
            groups_claim: claim.unwrap_or_else(|| TOKEN_GROUPS.default.to_owned()),
        }
    };
    Some(TokenSettings { service, realm })
}

/// Whether a text is an http or https URL that can be quoted in a header.
fn is_http(url: &str) -> bool {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_quotable))
}

/// Whether a character can be in a quoted text of a header.
fn is_quotable(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '"' | '\\')
}

/// Whether a URL leads over plain HTTP to another machine.
fn is_unencrypted(url: &str) -> bool {
    let host = url.strip_prefix("http://");
    let is_local = |host: &str| {
        let local = ["localhost", "127.", "[::1]"];
        local.iter().any(|local| host.starts_with(local))
    };
    host.is_some_and(|host| !is_local(host))
}

fn key_location(text: &str) -> KeyLocation {
    if is_http(text) {
        KeyLocation::Url(text.to_owned())
    } else {
        KeyLocation::File(text.strip_prefix("file://").unwrap_or(text).into())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::Arguments;
    use crate::table::{LISTEN, PUBLIC_URL, Setting};

    fn settings(values: &[(&'static Setting, &str)]) -> Result<AccessSettings, String> {
        let arguments = values.iter().fold(
            Arguments::<AccessSettings>::default(),
            |all, (name, value)| all.with(name, *value),
        );
        arguments.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_limited_by_default() {
        let settings = settings(&[]).expect("valid");
        assert!(!settings.is_configured());
        assert_eq!(settings, AccessSettings::default());
    }

    #[test]
    fn this_server_issues_tokens() {
        let settings = settings(&[(HTPASSWD, "/users"), (TOKEN_REALM, "self")]).expect("valid");
        assert!(settings.is_configured() && settings.has_logins());
        let tokens = settings.token_service.expect("set");
        assert_eq!(tokens.service, "nixery");
        let own = TokenRealm::Own {
            issuer: "nixery".to_owned(),
            key: None,
            lifetime: Duration::from_secs(300),
        };
        assert_eq!(tokens.realm, own);
    }

    #[rstest]
    #[case("https://example.org/keys", KeyLocation::Url("https://example.org/keys".into()))]
    #[case("/etc/keys.json", KeyLocation::File("/etc/keys.json".into()))]
    #[case("file:///etc/keys.json", KeyLocation::File("/etc/keys.json".into()))]
    fn another_service_issues_tokens(#[case] keys: &str, #[case] expected: KeyLocation) {
        let realm = "https://auth.example.org/token";
        let values = [(TOKEN_REALM, realm), (TOKEN_KEYS, keys)];
        let tokens = settings(&values)
            .expect("valid")
            .token_service
            .expect("set");
        let TokenRealm::Other { url, keys, .. } = tokens.realm else {
            panic!("another service: {tokens:?}");
        };
        assert_eq!((url.as_str(), keys), (realm, expected));
    }

    #[rstest]
    #[case(&[(TOKEN_REALM, "self")], "NIXERY_HTPASSWD (--htpasswd) is not set")]
    #[case(
        &[(TOKEN_REALM, "https://example.org/token")],
        "NIXERY_TOKEN_KEYS (--token-keys) is not set; needed: the keys of the token service"
    )]
    #[case(
        &[(TOKEN_REALM, "example.org"), (TOKEN_KEYS, "/keys")],
        "NIXERY_TOKEN_REALM (--token-realm) is \"example.org\"; allowed: `self`, or"
    )]
    #[case(
        &[(TOKEN_REALM, "https://a\" b"), (TOKEN_KEYS, "/keys")],
        "NIXERY_TOKEN_REALM (--token-realm) is"
    )]
    #[case(
        &[(TOKEN_REALM, "self"), (HTPASSWD, "/users"), (TOKEN_LIFETIME, "1s")],
        "NIXERY_TOKEN_LIFETIME (--token-lifetime) is \"1s\""
    )]
    #[case(
        &[(TOKEN_REALM, "self"), (HTPASSWD, "/users"), (TOKEN_SERVICE, "a\"b")],
        "NIXERY_TOKEN_SERVICE (--token-service) is"
    )]
    fn what_does_not_fit_is_refused(
        #[case] values: &[(&'static Setting, &str)],
        #[case] expected: &str,
    ) {
        let message = settings(values).expect_err("invalid");
        assert!(message.contains(expected), "{message}");
    }

    #[rstest]
    #[case(&[(TOKEN_KEY, "/key")])]
    #[case(&[(TOKEN_REALM, "self"), (HTPASSWD, "/users"), (TOKEN_KEYS, "/keys")])]
    #[case(&[(TOKEN_REALM, "https://a/t"), (TOKEN_KEYS, "/keys"), (TOKEN_KEY, "/key")])]
    fn what_has_no_effect_is_reported(#[case] values: &[(&'static Setting, &str)]) {
        assert_eq!(settings(values).expect("valid").ignored.len(), 1);
    }

    #[rstest]
    #[case::passwords(&[(HTPASSWD, "/users")], Some("travel unencrypted"))]
    #[case::loopback(&[(HTPASSWD, "/users"), (LISTEN, "127.0.0.1")], None)]
    #[case::tls(&[(HTPASSWD, "/u"), (TLS_CERT, "/c"), (TLS_KEY, "/k")], None)]
    #[case::proxy(&[(TOKENS, "/tokens"), (TRUSTED_PROXIES, "10.0.0.1")], None)]
    #[case::public_url(&[(TOKENS, "/tokens"), (PUBLIC_URL, "https://a.example")], None)]
    #[case::no_logins(&[(POLICY, "/policy")], None)]
    #[case::public_blobs(&[(POLICY, "/policy"), (BLOB_DELIVERY, "public")], Some("is `public`"))]
    #[case::public_registry(&[(BLOB_DELIVERY, "public")], None)]
    fn what_weakens_access_is_warned_of(
        #[case] values: &[(&'static Setting, &str)],
        #[case] expected: Option<&str>,
    ) {
        let access = Arguments::<AccessSettings>::default();
        let server = Arguments::<ServerSettings>::default();
        let (access, server) = values
            .iter()
            .fold((access, server), |(access, server), one| {
                (access.with(one.0, one.1), server.with(one.0, one.1))
            });
        let access = access.settings().expect("valid");
        let warnings = access.warnings(&server.settings().expect("valid"));
        assert_eq!(
            warnings.len(),
            usize::from(expected.is_some()),
            "{warnings:?}"
        );
        let fits = |warning: &String| expected.is_some_and(|text| warning.contains(text));
        assert!(warnings.iter().all(fits), "{warnings:?}");
    }
}
