//! How the registry listens, waits, logs and stops.

use super::value::{ConfigErrors, Setting, given, origin};
use crate::delivery::BlobDelivery;
use crate::log::{LogFormat, is_filter};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

const PORT: Setting = Setting::new("PORT", "--port");
const LISTEN: Setting = Setting::new("NIXERY_LISTEN", "--listen");
const PUBLIC_URL: Setting = Setting::new("NIXERY_PUBLIC_URL", "--public-url");
const HOLD: Setting = Setting::new("NIXERY_HOLD_SECONDS", "--hold-seconds");
const DELIVERY: Setting = Setting::new("NIXERY_BLOB_DELIVERY", "--blob-delivery");
const REDIRECT_TTL: Setting = Setting::new("NIXERY_REDIRECT_TTL", "--redirect-ttl");
const GRACE: Setting = Setting::new("NIXERY_SHUTDOWN_GRACE", "--shutdown-grace");
const LOG_FORMAT: Setting = Setting::new("NIXERY_LOG_FORMAT", "--log-format");
const LOG: Setting = Setting::new("NIXERY_LOG", "--log");

/// containerd gives up on a response 30 s after asking; the rest is for the way there and back.
pub const DEFAULT_HOLD_SECONDS: u64 = 25;
/// Port of the original's examples and of the project's scripts.
pub const DEFAULT_PORT: u16 = 8080;
/// Long enough for a large layer on a slow line, short enough for an impatient service manager.
const DEFAULT_GRACE_SECONDS: u64 = 120;
/// Clients begin to read within seconds of a redirect; the rest is for those that queue their downloads.
const DEFAULT_REDIRECT_TTL: u64 = 15 * 60;
/// The longest time that S3 and GCS let a signed URL live.
const LONGEST_REDIRECT_TTL: u64 = 7 * DAY;
/// An upper bound for times that a typing error would otherwise turn into years.
const DAY: u64 = 24 * 60 * 60;

/// Flags and variables of the HTTP server.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// TCP port to listen on; 0 takes a free one [default: 8080]
    #[arg(long, env = "PORT", value_name = "PORT")]
    pub port: Option<String>,

    /// IP address to listen on [default: ::, that is all addresses, IPv4 and IPv6]
    #[arg(long, env = "NIXERY_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// How clients reach this registry, such as `https://nixery.example.org`; shown in pull commands
    /// and log links [default: taken from each request's Host]
    #[arg(long, env = "NIXERY_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,

    /// How long a manifest request waits for its build before it is redirected, in seconds; clients
    /// give up after 30 [default: 25]
    #[arg(long, env = "NIXERY_HOLD_SECONDS", value_name = "SECONDS")]
    pub hold_seconds: Option<String>,

    /// Which way blobs take to clients: `redirect` sends them to signed URLs of the store, `public`
    /// to unsigned ones, `proxy` sends blobs through this server, `auto` is `redirect` where the
    /// store can sign, else `proxy` [default: auto]
    #[arg(long, env = "NIXERY_BLOB_DELIVERY", value_name = "WAY")]
    pub blob_delivery: Option<String>,

    /// How long a signed URL can be used, in seconds [default: 900]
    #[arg(long, env = "NIXERY_REDIRECT_TTL", value_name = "SECONDS")]
    pub redirect_ttl: Option<String>,

    /// How long running builds and transfers may take to end after a SIGTERM, in seconds [default: 120]
    #[arg(long, env = "NIXERY_SHUTDOWN_GRACE", value_name = "SECONDS")]
    pub shutdown_grace: Option<String>,

    /// `text`, `json`, or `auto`: text on a terminal, JSON otherwise [default: auto]
    #[arg(long, env = "NIXERY_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// Log filter, such as `info` or `nixery_builder=debug,warn` [default: info]
    #[arg(long, env = "NIXERY_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// Folder of the original's web page: accepted and ignored with a warning, as the page is built in
    #[arg(long, env = "WEB_DIR", value_name = "FOLDER", hide = true)]
    pub web_dir: Option<String>,
}

/// Checked settings of the HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Port to listen on, 0 for a free one.
    pub port: u16,
    /// Address to listen on; `None` is all of them.
    pub listen: Option<IpAddr>,
    /// How the registry answers.
    pub http: HttpSettings,
    /// Time for work to end after a signal.
    pub shutdown_grace: Duration,
    /// Layout of log lines.
    pub log_format: LogFormat,
    /// Filter of log lines, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// Settings that were given and do nothing, each with the reason.
    pub ignored: Vec<String>,
}

/// What request handlers need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Scheme and authority without a trailing slash, such as `https://nixery.example.org`.
    pub public_url: Option<String>,
    /// Time a manifest request waits for its build.
    pub hold: Duration,
    /// Which way blobs take.
    pub delivery: BlobDelivery,
    /// Time for which signed URLs are good.
    pub redirect_ttl: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            public_url: None,
            hold: Duration::from_secs(DEFAULT_HOLD_SECONDS),
            delivery: BlobDelivery::default(),
            redirect_ttl: Duration::from_secs(DEFAULT_REDIRECT_TTL),
        }
    }
}

impl ServerSettings {
    /// The address to try first.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.listen.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }
}

impl ServerArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// Every value that is not allowed.
    pub fn settings(&self) -> Result<ServerSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let settings = ServerSettings {
            port: errors.number(PORT, self.port.as_deref(), DEFAULT_PORT, 0..=u16::MAX),
            listen: self.listen(&mut errors),
            http: HttpSettings {
                public_url: self.public_url(&mut errors),
                hold: errors.seconds(
                    HOLD,
                    self.hold_seconds.as_deref(),
                    DEFAULT_HOLD_SECONDS,
                    1..=600,
                ),
                delivery: errors.choice(
                    DELIVERY,
                    self.blob_delivery.as_deref(),
                    BlobDelivery::default(),
                    &BlobDelivery::WORDS,
                ),
                redirect_ttl: errors.seconds(
                    REDIRECT_TTL,
                    self.redirect_ttl.as_deref(),
                    DEFAULT_REDIRECT_TTL,
                    30..=LONGEST_REDIRECT_TTL,
                ),
            },
            shutdown_grace: errors.seconds(
                GRACE,
                self.shutdown_grace.as_deref(),
                DEFAULT_GRACE_SECONDS,
                0..=DAY,
            ),
            log_format: errors.choice(
                LOG_FORMAT,
                self.log_format.as_deref(),
                LogFormat::Auto,
                &[
                    ("auto", LogFormat::Auto),
                    ("text", LogFormat::Text),
                    ("json", LogFormat::Json),
                ],
            ),
            log_filter: self.log_filter(&mut errors),
            ignored: given(self.web_dir.as_deref())
                .map(|_| "WEB_DIR is set but not used: the start page is built in".to_owned())
                .into_iter()
                .collect(),
        };
        errors.finish(settings)
    }

    fn listen(&self, errors: &mut ConfigErrors) -> Option<IpAddr> {
        let text = given(self.listen.as_deref())?;
        let address = text.trim_matches(['[', ']']).parse().ok();
        if address.is_none() {
            errors.invalid(LISTEN, text, "an IP address, such as 127.0.0.1 or ::");
        }
        address
    }

    fn public_url(&self, errors: &mut ConfigErrors) -> Option<String> {
        let text = given(self.public_url.as_deref())?;
        let url = origin(text);
        if url.is_none() {
            let allowed = "http:// or https://, a host and perhaps a port, without a path";
            errors.invalid(PUBLIC_URL, text, allowed);
        }
        url
    }

    fn log_filter(&self, errors: &mut ConfigErrors) -> String {
        let filter = given(self.log.as_deref()).unwrap_or("info");
        if !is_filter(filter) {
            let allowed = "off, error, warn, info, debug, trace, or a list of crate=level";
            errors.invalid(LOG, filter, allowed);
        }
        filter.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn without_any_setting_it_listens_on_8080_and_holds_for_25_seconds() {
        let settings = ServerArgs::default().settings().unwrap();
        assert_eq!(settings.port, 8080);
        assert_eq!(settings.address(), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        assert_eq!(settings.http, HttpSettings::default());
        assert_eq!(settings.http.hold, Duration::from_secs(25));
        assert!(settings.ignored.is_empty());
    }

    #[rstest]
    #[case::port(|a: &mut ServerArgs| a.port = Some("http".into()), "PORT (--port) is \"http\"; allowed: a whole number from 0 to 65535")]
    #[case::port_too_large(|a: &mut ServerArgs| a.port = Some("65536".into()), "PORT (--port) is \"65536\"")]
    #[case::listen(|a: &mut ServerArgs| a.listen = Some("localhost".into()), "NIXERY_LISTEN (--listen) is \"localhost\"; allowed: an IP address")]
    #[case::public_url(|a: &mut ServerArgs| a.public_url = Some("nixery.dev".into()), "NIXERY_PUBLIC_URL (--public-url) is \"nixery.dev\"")]
    #[case::public_url_path(|a: &mut ServerArgs| a.public_url = Some("https://nixery.dev/a".into()), "without a path")]
    #[case::hold(|a: &mut ServerArgs| a.hold_seconds = Some("0".into()), "NIXERY_HOLD_SECONDS (--hold-seconds) is \"0\"; allowed: a whole number from 1 to 600 (seconds)")]
    #[case::grace(|a: &mut ServerArgs| a.shutdown_grace = Some("-1".into()), "NIXERY_SHUTDOWN_GRACE (--shutdown-grace) is \"-1\"")]
    #[case::delivery(|a: &mut ServerArgs| a.blob_delivery = Some("direct".into()), "NIXERY_BLOB_DELIVERY (--blob-delivery) is \"direct\"; allowed: auto, redirect, public, proxy")]
    #[case::redirect_ttl(|a: &mut ServerArgs| a.redirect_ttl = Some("5".into()), "NIXERY_REDIRECT_TTL (--redirect-ttl) is \"5\"; allowed: a whole number from 30 to 604800 (seconds)")]
    #[case::log_format(|a: &mut ServerArgs| a.log_format = Some("xml".into()), "NIXERY_LOG_FORMAT (--log-format) is \"xml\"; allowed: auto, text, json")]
    #[case::log_word(|a: &mut ServerArgs| a.log = Some("verbose".into()), "NIXERY_LOG (--log) is \"verbose\"; allowed: off, error,")]
    #[case::log(|a: &mut ServerArgs| a.log = Some("a=b=c".into()), "NIXERY_LOG (--log) is \"a=b=c\"")]
    fn a_wrong_value_is_refused_with_its_names_and_what_is_allowed(
        #[case] set: fn(&mut ServerArgs),
        #[case] expected: &str,
    ) {
        let mut arguments = ServerArgs::default();
        set(&mut arguments);
        let message = arguments.settings().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn all_wrong_values_are_reported_at_once() {
        let arguments = ServerArgs {
            port: Some("x".into()),
            hold_seconds: Some("y".into()),
            ..ServerArgs::default()
        };
        assert_eq!(arguments.settings().unwrap_err().0.len(), 2);
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let arguments = ServerArgs {
            port: Some(String::new()),
            public_url: Some(" ".into()),
            web_dir: Some(String::new()),
            ..ServerArgs::default()
        };
        assert_eq!(arguments.settings(), ServerArgs::default().settings());
    }

    #[test]
    fn the_folder_of_the_originals_page_is_not_ignored_silently() {
        let arguments = ServerArgs {
            web_dir: Some("/srv/web".into()),
            ..ServerArgs::default()
        };
        assert_eq!(arguments.settings().unwrap().ignored.len(), 1);
    }

    #[test]
    fn a_public_url_loses_its_trailing_slash() {
        assert_eq!(
            origin("https://nixery.dev/").as_deref(),
            Some("https://nixery.dev")
        );
        assert_eq!(
            origin("http://[::1]:80").as_deref(),
            Some("http://[::1]:80")
        );
    }
}
