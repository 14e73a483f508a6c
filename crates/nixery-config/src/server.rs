//! The settings of the HTTP server.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::arguments::Section;
use crate::check::{BOOLEANS, Checker, origin};
use crate::log::{LogFormat, is_filter};
use crate::proxies::TrustedProxies;
use crate::table::{
    ADMIN_LISTEN, BLOB_DELIVERY, Group, HOLD, LISTEN, LOG, LOG_FORMAT, MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_CLIENT, MAX_DOWNLOADS, PORT, PUBLIC_PAGES, PUBLIC_URL, REDIRECT_TTL,
    SHUTDOWN_GRACE, TLS_CERT, TLS_KEY, TRUSTED_PROXIES, WEB_DIR,
};

/// Default of [`HttpSettings::hold`]: containerd gives up 30 s after a request, and the network
/// takes some of that time.
const DEFAULT_HOLD: Duration = Duration::from_secs(25);
/// Default of [`HttpSettings::redirect_ttl`]: most clients read within seconds, but some queue
/// their downloads.
const DEFAULT_REDIRECT_TTL: Duration = Duration::from_secs(15 * 60);
/// The longest time for which S3 and GCS sign a URL.
const MAX_REDIRECT_TTL: u64 = 7 * DAY;
const DAY: u64 = 24 * 60 * 60;
/// The most connections or downloads that can be allowed: Linux gives a process no more files.
const MAX_LIMIT: usize = 1 << 30;

/// Checked settings of the HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSettings {
    /// Port to listen on, 0 for a free one.
    pub port: u16,
    /// Address to listen on; `None` for all addresses.
    pub listen: Option<IpAddr>,
    /// The files for TLS; `None` for plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Address and port of the listener for health checks, metrics and pages, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// The settings of request handlers.
    pub http: HttpSettings,
    /// Limit of connections; `None` for one that fits the system.
    pub max_connections: Option<usize>,
    /// Limit of connections of one client; `None` for half of all.
    pub max_connections_per_client: Option<usize>,
    /// Limit of blobs that are sent at once; `None` for one that fits the system.
    pub max_downloads: Option<usize>,
    /// Time limit for running work after a signal.
    pub shutdown_grace: Duration,
    /// Layout of log lines.
    pub log_format: LogFormat,
    /// Filter of log lines, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// A warning for each setting that is set and has no effect.
    pub ignored: Vec<String>,
}

/// The files of a certificate, in PEM. What they contain is not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate, and those that lead to its root.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Checked settings of request handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Scheme and authority without a trailing slash, such as `https://nixery.example.org`.
    pub public_url: Option<String>,
    /// How long a manifest request waits for its build.
    pub hold: Duration,
    /// How clients get blobs.
    pub delivery: BlobDelivery,
    /// How long signed URLs are valid.
    pub redirect_ttl: Duration,
    /// Limit of blobs that are sent through this server at once. [`ServerSettings::max_downloads`]
    /// replaces it when a server starts.
    pub max_downloads: usize,
    /// The same for one client.
    pub max_downloads_per_client: usize,
    /// The proxies whose headers say which client sent a request, and with which address.
    pub trusted_proxies: TrustedProxies,
    /// Whether the listener of the registry also serves pages, logs, health checks and metrics.
    pub public_pages: bool,
}

/// How clients get blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BlobDelivery {
    /// [`Self::Redirect`] if the store can sign URLs, else [`Self::Proxy`].
    #[default]
    Auto,
    /// Clients are redirected to signed URLs of the store.
    Redirect,
    /// Clients are redirected to unsigned URLs of the store, which must be public.
    Public,
    /// Blobs are sent through this server.
    Proxy,
}

impl BlobDelivery {
    /// The values of the setting.
    const WORDS: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("redirect", Self::Redirect),
        ("public", Self::Public),
        ("proxy", Self::Proxy),
    ];

    /// Returns a description for the log.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Auto => "redirected to signed URLs where the store can sign",
            Self::Redirect => "redirected to signed URLs",
            Self::Public => "redirected to public URLs",
            Self::Proxy => "sent through this server",
        }
    }
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            public_url: None,
            hold: DEFAULT_HOLD,
            delivery: BlobDelivery::default(),
            redirect_ttl: DEFAULT_REDIRECT_TTL,
            max_downloads: 256,
            max_downloads_per_client: 128,
            trusted_proxies: TrustedProxies::default(),
            public_pages: true,
        }
    }
}

impl ServerSettings {
    /// Returns the address to listen on.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.listen.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }

    /// Returns a warning if no listener answers health checks.
    #[must_use]
    pub(crate) fn warning(&self) -> Option<String> {
        let none = !self.http.public_pages && self.admin_listen.is_none();
        none.then(|| {
            format!(
                "{PUBLIC_PAGES} is false and there is no admin listener, so health checks, metrics and pages cannot be reached. Fix: set {ADMIN_LISTEN} to an address and port, such as 127.0.0.1:9090"
            )
        })
    }
}

/// Reads the files for TLS: both settings, or neither.
fn tls(checker: &mut Checker<'_>) -> Option<TlsSettings> {
    match (checker.path(TLS_CERT), checker.path(TLS_KEY)) {
        (Some(certificate), Some(key)) => return Some(TlsSettings { certificate, key }),
        (Some(_), None) => checker.missing(
            TLS_KEY,
            format_args!("the file with the private key of the certificate in {TLS_CERT}"),
        ),
        (None, Some(_)) => checker.missing(
            TLS_CERT,
            format_args!("the file with the certificate of the key in {TLS_KEY}"),
        ),
        (None, None) => {}
    }
    None
}

impl Section for ServerSettings {
    const GROUPS: &'static [Group] = &[Group::Server, Group::Tls];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let address = |text: &str| text.trim_matches(['[', ']']).parse().ok();
        let filter = |text: &str| is_filter(text).then(|| text.to_owned());
        let formats = [
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
        ];
        Some(Self {
            port: checker.number(PORT, 0..=u16::MAX),
            listen: checker.parsed(LISTEN, address, "an IP address, such as 127.0.0.1 or ::"),
            tls: tls(checker),
            admin_listen: checker.parsed(
                ADMIN_LISTEN,
                |text| text.parse().ok(),
                "an IP address and a port, such as 127.0.0.1:9090 or [::1]:9090",
            ),
            http: HttpSettings {
                public_url: checker.parsed(
                    PUBLIC_URL,
                    origin,
                    "http:// or https://, a host and perhaps a port, without a path",
                ),
                hold: checker.time(HOLD, 1..=600),
                delivery: checker.choice(BLOB_DELIVERY, &BlobDelivery::WORDS)?,
                redirect_ttl: checker.time(REDIRECT_TTL, 30..=MAX_REDIRECT_TTL),
                trusted_proxies: checker
                    .parsed(
                        TRUSTED_PROXIES,
                        TrustedProxies::parse,
                        "addresses and networks, such as 127.0.0.1, ::1, 10.0.0.0/8",
                    )
                    .unwrap_or_default(),
                public_pages: checker.choice(PUBLIC_PAGES, BOOLEANS)?,
                ..HttpSettings::default()
            },
            max_connections: checker.optional_number(MAX_CONNECTIONS, 1..=MAX_LIMIT),
            max_connections_per_client: checker
                .optional_number(MAX_CONNECTIONS_PER_CLIENT, 1..=MAX_LIMIT),
            max_downloads: checker.optional_number(MAX_DOWNLOADS, 1..=MAX_LIMIT),
            shutdown_grace: checker.time(SHUTDOWN_GRACE, 0..=DAY),
            log_format: checker.choice(LOG_FORMAT, &formats)?,
            log_filter: checker
                .parsed(
                    LOG,
                    filter,
                    "off, error, warn, info, debug, trace, or a list of crate=level",
                )
                .unwrap_or_else(|| LOG.default.to_owned()),
            ignored: checker.unused([WEB_DIR], "the start page is built in"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use crate::table::Setting;
    use rstest::rstest;

    #[test]
    fn without_any_setting_it_listens_on_8080_and_holds_for_25_seconds() {
        let settings = Arguments::<ServerSettings>::default().settings().unwrap();
        assert_eq!(settings.port, 8080);
        assert_eq!(settings.address(), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        assert_eq!(settings.http, HttpSettings::default());
        assert_eq!(settings.http.hold, Duration::from_secs(25));
        assert!(settings.ignored.is_empty());
    }

    #[rstest]
    #[case::port(
        PORT,
        "http",
        "PORT (--port) is \"http\"; allowed: a whole number from 0 to 65535"
    )]
    #[case::port_too_large(PORT, "65536", "PORT (--port) is \"65536\"")]
    #[case::listen(
        LISTEN,
        "localhost",
        "NIXERY_LISTEN (--listen) is \"localhost\"; allowed: an IP address"
    )]
    #[case::public_url(
        PUBLIC_URL,
        "nixery.dev",
        "NIXERY_PUBLIC_URL (--public-url) is \"nixery.dev\""
    )]
    #[case::public_url_path(PUBLIC_URL, "https://nixery.dev/a", "without a path")]
    #[case::hold(
        HOLD,
        "0",
        "NIXERY_HOLD_SECONDS (--hold-seconds) is \"0\"; allowed: a time from 1s to 10m, such as"
    )]
    #[case::grace(
        SHUTDOWN_GRACE,
        "-1",
        "NIXERY_SHUTDOWN_GRACE (--shutdown-grace) is \"-1\""
    )]
    #[case::delivery(
        BLOB_DELIVERY,
        "direct",
        "NIXERY_BLOB_DELIVERY (--blob-delivery) is \"direct\"; allowed: auto, redirect, public, proxy"
    )]
    #[case::redirect_ttl(
        REDIRECT_TTL,
        "5",
        "NIXERY_REDIRECT_TTL (--redirect-ttl) is \"5\"; allowed: a time from 30s to 7days, such as"
    )]
    #[case::connections(
        MAX_CONNECTIONS,
        "0",
        "NIXERY_MAX_CONNECTIONS (--max-connections) is \"0\"; allowed: a whole number from 1 to"
    )]
    #[case::connections_per_client(
        MAX_CONNECTIONS_PER_CLIENT,
        "half",
        "NIXERY_MAX_CONNECTIONS_PER_CLIENT (--max-connections-per-client) is \"half\""
    )]
    #[case::downloads(
        MAX_DOWNLOADS,
        "-1",
        "NIXERY_MAX_DOWNLOADS (--max-downloads) is \"-1\""
    )]
    #[case::trusted_proxies(
        TRUSTED_PROXIES,
        "proxy.example.org",
        "NIXERY_TRUSTED_PROXIES (--trusted-proxies) is \"proxy.example.org\"; allowed: addresses and networks"
    )]
    #[case::admin_listen(
        ADMIN_LISTEN,
        "9090",
        "NIXERY_ADMIN_LISTEN (--admin-listen) is \"9090\"; allowed: an IP address and a port"
    )]
    #[case::public_pages(
        PUBLIC_PAGES,
        "none",
        "NIXERY_PUBLIC_PAGES (--public-pages) is \"none\"; allowed: true, false"
    )]
    #[case::certificate_alone(
        TLS_CERT,
        "/etc/tls.crt",
        "NIXERY_TLS_KEY (--tls-key) is not set; needed: the file with the private key of the certificate in NIXERY_TLS_CERT"
    )]
    #[case::key_alone(
        TLS_KEY,
        "/etc/tls.key",
        "NIXERY_TLS_CERT (--tls-cert) is not set; needed: the file with the certificate of the key in NIXERY_TLS_KEY"
    )]
    #[case::log_format(
        LOG_FORMAT,
        "xml",
        "NIXERY_LOG_FORMAT (--log-format) is \"xml\"; allowed: auto, text, json"
    )]
    #[case::log_word(
        LOG,
        "verbose",
        "NIXERY_LOG (--log) is \"verbose\"; allowed: off, error,"
    )]
    #[case::log(LOG, "a=b=c", "NIXERY_LOG (--log) is \"a=b=c\"")]
    fn a_wrong_value_is_refused_with_its_names_and_what_is_allowed(
        #[case] setting: &Setting,
        #[case] value: &str,
        #[case] expected: &str,
    ) {
        let arguments = Arguments::<ServerSettings>::default().with(setting, value);
        let message = arguments.settings().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn all_wrong_values_are_reported_at_once() {
        let arguments = Arguments::<ServerSettings>::default()
            .with(PORT, "x")
            .with(HOLD, "y");
        assert_eq!(arguments.settings().unwrap_err().0.len(), 2);
    }

    #[rstest]
    #[case("127.0.0.1:9090")]
    #[case("[::1]:9090")]
    fn the_admin_listener_has_an_address_and_a_port(#[case] text: &str) {
        let arguments = Arguments::<ServerSettings>::default().with(ADMIN_LISTEN, text);
        let settings = arguments.settings().unwrap();
        assert_eq!(settings.admin_listen.unwrap().to_string(), text);
    }

    #[test]
    fn a_server_without_a_port_for_health_checks_is_warned_of() {
        let pages_off = Arguments::<ServerSettings>::default().with(PUBLIC_PAGES, "false");
        let warning = pages_off.settings().unwrap().warning().unwrap();
        assert!(warning.contains("NIXERY_ADMIN_LISTEN"), "{warning}");
        let admin = pages_off.with(ADMIN_LISTEN, "127.0.0.1:9090");
        assert_eq!(admin.settings().unwrap().warning(), None);
        let default = Arguments::<ServerSettings>::default();
        assert_eq!(default.settings().unwrap().warning(), None);
    }

    #[test]
    fn tls_needs_both_files() {
        let arguments = Arguments::<ServerSettings>::default()
            .with(TLS_CERT, "/etc/tls.crt")
            .with(TLS_KEY, "/etc/tls.key");
        let tls = arguments.settings().unwrap().tls.unwrap();
        assert_eq!(tls.certificate.to_str(), Some("/etc/tls.crt"));
        assert_eq!(tls.key.to_str(), Some("/etc/tls.key"));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let arguments = Arguments::<ServerSettings>::default()
            .with(PORT, "")
            .with(PUBLIC_URL, " ")
            .with(WEB_DIR, "");
        assert_eq!(arguments.settings(), Arguments::default().settings());
    }

    #[test]
    fn the_folder_of_the_originals_page_is_not_ignored_silently() {
        let arguments = Arguments::<ServerSettings>::default().with(WEB_DIR, "/srv/web");
        assert_eq!(arguments.settings().unwrap().ignored.len(), 1);
    }
}
