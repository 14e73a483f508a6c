//! Reads single settings, and collects everything that is wrong with them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use nixery_core::ByteSize;

use crate::table::Setting;

/// The values of settings, by variable.
pub(crate) type Values = BTreeMap<&'static str, OsString>;

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub(crate) Vec<String>);

impl ConfigErrors {
    /// Returns the values of two parts of a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with either.
    pub fn both<A, B>(one: Result<A, Self>, other: Result<B, Self>) -> Result<(A, B), Self> {
        match (one, other) {
            (Ok(one), Ok(other)) => Ok((one, other)),
            (Err(one), Err(other)) => Err(Self([one.0, other.0].concat())),
            (Err(errors), _) | (_, Err(errors)) => Err(errors),
        }
    }
}

/// The words of a setting that is true or false.
pub(crate) const BOOLEANS: &[(&str, bool)] =
    &[("true", true), ("false", false), ("1", true), ("0", false)];

/// Reads settings one by one, and collects everything that is wrong with them.
pub struct Checker<'a> {
    values: &'a Values,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    flag_prefix: &'static str,
    errors: ConfigErrors,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(
        values: &'a Values,
        environment: &'a dyn Fn(&str) -> Option<OsString>,
        flag_prefix: &'static str,
    ) -> Self {
        Self {
            values,
            environment,
            flag_prefix,
            errors: ConfigErrors::default(),
        }
    }

    pub(crate) fn finish<T>(self, settings: Option<T>) -> Result<T, ConfigErrors> {
        settings
            .filter(|_| self.errors.0.is_empty())
            .ok_or(self.errors)
    }

    /// Returns the names of a setting in the command that is running.
    pub(crate) fn name(&self, setting: &Setting) -> String {
        setting.name(setting.variable, self.flag_prefix)
    }

    /// Adds a problem.
    pub(crate) fn push(&mut self, problem: String) {
        self.errors.0.push(problem);
    }

    /// Adds the problem of a value that is not allowed. A user name and password before a host are
    /// not repeated.
    pub(crate) fn invalid(&mut self, name: &str, value: &str, allowed: impl Display) {
        let value = without_user(value);
        self.push(format!("{name} is {value:?}; allowed: {allowed}"));
    }

    /// Adds the problem of a setting that is needed and not set.
    pub(crate) fn missing(&mut self, setting: &Setting, needed: impl Display) {
        self.push(format!(
            "{} is not set; needed: {needed}",
            self.name(setting)
        ));
    }

    /// Adds the problem of a value that needs a feature of this crate, unless the feature is on.
    pub(crate) fn needs(&mut self, setting: &Setting, on: bool, feature: &'static str) {
        if !on {
            let (name, value) = (self.name(setting), self.text(setting).unwrap_or_default());
            let value = without_user(&value);
            self.push(format!(
                "{name} is {value:?}, but this program was built without the feature `{feature}`. Fix: build it with that feature, or use another value"
            ));
        }
    }

    /// Returns a variable of another program. Empty text counts as absent.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        trimmed(&(self.environment)(name)?)
    }

    /// Returns the path in a variable of another program.
    pub(crate) fn variable_path(&self, name: &str) -> Option<PathBuf> {
        (self.environment)(name).map(PathBuf::from)
    }

    /// Returns the text of a setting, or of the first of its fallbacks that is set, with the names
    /// to report it by. Empty text counts as absent, and space around it is ignored.
    pub(crate) fn given(&self, setting: &Setting) -> Option<(String, String)> {
        let own = self.own(setting).map(|text| (setting.variable, text));
        let fallback = |variable: &&'static str| Some((*variable, self.variable(variable)?));
        let (variable, text) = own.or_else(|| setting.fallbacks.iter().find_map(fallback))?;
        Some((setting.name(variable, self.flag_prefix), text))
    }

    /// Returns the text of a setting itself, not of its fallbacks.
    fn own(&self, setting: &Setting) -> Option<String> {
        self.values.get(setting.variable).and_then(trimmed)
    }

    /// Returns the text of a setting.
    pub(crate) fn text(&self, setting: &Setting) -> Option<String> {
        self.given(setting).map(|(_, text)| text)
    }

    /// Whether a setting itself is set, not only one of its fallbacks.
    pub(crate) fn is_given(&self, setting: &Setting) -> bool {
        self.own(setting).is_some()
    }

    /// Returns a warning for each of these settings that is set though nothing reads it.
    pub(crate) fn unused<'s>(
        &self,
        settings: impl IntoIterator<Item = &'s Setting>,
        why: &str,
    ) -> Vec<String> {
        let unused = settings
            .into_iter()
            .filter(|setting| self.is_given(setting));
        unused
            .map(|setting| format!("{} is set but not used: {why}", self.name(setting)))
            .collect()
    }

    /// Returns a path, its bytes as they are.
    pub(crate) fn path(&self, setting: &Setting) -> Option<PathBuf> {
        let value = self.values.get(setting.variable);
        value.filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Returns a path that must be `valid`.
    pub(crate) fn valid_path(
        &mut self,
        setting: &Setting,
        valid: impl FnOnce(&PathBuf) -> bool,
        allowed: &str,
    ) -> Option<PathBuf> {
        let path = self.path(setting)?;
        if !valid(&path) {
            self.invalid(&self.name(setting), &path.display().to_string(), allowed);
        }
        Some(path)
    }

    /// Returns the value that `parse` makes of the text, if the setting is set.
    pub(crate) fn parsed<T>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Option<T>,
        allowed: impl Display,
    ) -> Option<T> {
        let (name, text) = self.given(setting)?;
        let value = parse(&text);
        if value.is_none() {
            self.invalid(&name, &text, allowed);
        }
        value
    }

    /// Returns a whole number within a range, if it is set.
    pub(crate) fn optional_number<T>(
        &mut self,
        setting: &Setting,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        let allowed = format_args!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(setting, parse, allowed)
    }

    /// Returns a whole number within a range; the default is the table's.
    pub(crate) fn number<T>(&mut self, setting: &Setting, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display + Default,
    {
        let given = self.optional_number(setting, range);
        given.unwrap_or_else(|| setting.default.parse().unwrap_or_default())
    }

    /// Returns a time within a range of seconds, if it is set.
    pub(crate) fn optional_time(
        &mut self,
        setting: &Setting,
        range: RangeInclusive<u64>,
    ) -> Option<Duration> {
        let parse = |text: &str| time(text).filter(|time| range.contains(&time.as_secs()));
        let [least, most] = [range.start(), range.end()]
            .map(|seconds| humantime::format_duration(Duration::from_secs(*seconds)));
        let allowed = format_args!(
            "a time from {least} to {most}, such as 90s, 30m, 6h or 30d; a number alone means seconds"
        );
        self.parsed(setting, parse, allowed)
    }

    /// Returns a time within a range of seconds; the default is the table's.
    pub(crate) fn time(&mut self, setting: &Setting, range: RangeInclusive<u64>) -> Duration {
        let given = self.optional_time(setting, range);
        given.unwrap_or_else(|| time(setting.default).unwrap_or_default())
    }

    /// Returns a size in bytes, if it is set.
    pub(crate) fn optional_size(&mut self, setting: &Setting) -> Option<u64> {
        let parse = |text: &str| text.parse().ok().map(|ByteSize(bytes)| bytes);
        let allowed = "a size such as 500M, 100G, 100GiB or 2T; a number alone means bytes";
        self.parsed(setting, parse, allowed)
    }

    /// Returns the value of one of a few words, if it is set.
    pub(crate) fn optional_choice<T: Copy>(
        &mut self,
        setting: &Setting,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        self.parsed(setting, |text| choice(text, choices), words.join(", "))
    }

    /// Returns the value of one of a few words; the default is the table's, which is among them.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        setting: &Setting,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let given = self.optional_choice(setting, choices);
        given.or_else(|| choice(setting.default, choices))
    }
}

/// Removes a user name and a password before a host.
fn without_user(value: &str) -> String {
    match value.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => value.to_owned(),
    }
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Option<T> {
    let found = choices.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value)
}

/// Returns the text without the space around it, if there is any text.
pub(crate) fn trimmed(value: &OsString) -> Option<String> {
    let text = value.to_string_lossy();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Parses a time in whole seconds. Without a unit it is in seconds; the case of a unit is ignored.
fn time(text: &str) -> Option<Duration> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let time = humantime::parse_duration(&text.to_ascii_lowercase()).ok();
    time.filter(|time| time.subsec_nanos() == 0)
}

/// Returns the URL without its trailing slash, if it is only a scheme and an authority.
pub(crate) fn origin(text: &str) -> Option<String> {
    let url = text.strip_suffix('/').unwrap_or(text);
    let host = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    is_authority(host).then(|| url.to_owned())
}

/// Whether the text is a host name or address with an optional port, and nothing else.
#[must_use]
pub fn is_authority(text: &str) -> bool {
    // The longest DNS name has 253 bytes, a port six with its colon.
    const MAX_BYTES: usize = 260;
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let (valid, rest) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').unwrap_or_default();
        (address.parse::<Ipv6Addr>().is_ok(), rest)
    } else {
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        (!host.is_empty() && host.bytes().all(is_word), rest)
    };
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    valid
        && text.len() <= MAX_BYTES
        && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("90s", Some(90))]
    #[case("90", Some(90))]
    #[case("30m", Some(1800))]
    #[case("30M", Some(1800))]
    #[case("30min", Some(1800))]
    #[case("6h", Some(21_600))]
    #[case("6 hours", Some(21_600))]
    #[case("1h30m", Some(5400))]
    #[case("30d", Some(2_592_000))]
    #[case("2 W", Some(1_209_600))]
    #[case("", None)]
    #[case("d", None)]
    #[case("-1d", None)]
    #[case("500ms", None)]
    #[case("99999999999999999999s", None)]
    #[case("18446744073709551615w", None)]
    fn times(#[case] text: &str, #[case] seconds: Option<u64>) {
        let given = Some(text).filter(|text| !text.is_empty());
        assert_eq!(given.and_then(time).map(|time| time.as_secs()), seconds);
    }

    #[test]
    fn a_public_url_loses_its_trailing_slash() {
        let url = origin("https://nixery.dev/");
        assert_eq!(url.as_deref(), Some("https://nixery.dev"));
        let url = origin("http://[::1]:80");
        assert_eq!(url.as_deref(), Some("http://[::1]:80"));
    }

    #[rstest]
    #[case("nixery.dev", true)]
    #[case("127.0.0.1:8080", true)]
    #[case("[::1]:8080", true)]
    #[case("[::1]", true)]
    #[case("my_host", true)]
    #[case("", false)]
    #[case(":80", false)]
    #[case("host:99999", false)]
    #[case("host:+80", false)]
    #[case("host/path", false)]
    #[case("user@host", false)]
    #[case("<script>", false)]
    #[case("[::1", false)]
    #[case("[hello]:1", false)]
    #[case("::1", false)]
    fn only_hosts_and_ports_are_shown(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(is_authority(text), valid);
    }
}
