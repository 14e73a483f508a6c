//! Reading single settings, and noting what is wrong with them.

use crate::arguments::Values;
use crate::table::{Setting, SettingName};
use nixery_core::ByteSize;
use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value outside of what the setting takes.
    #[error("{setting} is {value:?}; allowed: {allowed}")]
    Invalid {
        /// Which setting.
        setting: SettingName,
        /// The value as given.
        value: String,
        /// Which values are allowed.
        allowed: String,
    },
    /// A setting that is needed.
    #[error("{setting} is not set; needed: {needed}")]
    Missing {
        /// Which setting.
        setting: SettingName,
        /// Which value is needed.
        needed: String,
    },
    /// Settings of which only one may be given.
    #[error("{} are set; allowed: exactly one of them, as it selects the package source", list(.settings))]
    Exclusive {
        /// Those that were given.
        settings: Vec<SettingName>,
    },
    /// A value whose code is not in this program.
    #[error(
        "{setting} is {value:?}, but this program was built without the feature `{feature}`. Fix: build it with that feature, or use another value"
    )]
    NotBuilt {
        /// Which setting.
        setting: SettingName,
        /// The value as given.
        value: String,
        /// The feature that was off.
        feature: &'static str,
    },
}

fn list(settings: &[SettingName]) -> String {
    let names: Vec<_> = settings.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Returns the value of a part of the configuration; its problems are noted here.
    pub fn part<T>(&mut self, part: Result<T, Self>) -> Option<T> {
        part.map_err(|errors| self.0.extend(errors.0)).ok()
    }
}

/// A value that no log and no message may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the value, for use and not for display.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

/// Hides the value.
impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// The words of a setting that is true or false.
pub(crate) const BOOLEANS: &[(&str, bool)] =
    &[("true", true), ("false", false), ("1", true), ("0", false)];

/// Reads settings one by one, and collects everything that is wrong with them.
pub struct Checker<'a> {
    values: &'a Values,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    without: &'static str,
    errors: ConfigErrors,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(
        values: &'a Values,
        environment: &'a dyn Fn(&str) -> Option<OsString>,
        without: &'static str,
    ) -> Self {
        Self {
            values,
            environment,
            without,
            errors: ConfigErrors::default(),
        }
    }

    pub(crate) fn finish<T>(self, settings: Option<T>) -> Result<T, ConfigErrors> {
        match settings {
            Some(settings) if self.errors.0.is_empty() => Ok(settings),
            _ => Err(self.errors),
        }
    }

    /// How many problems were noted.
    pub(crate) fn problems(&self) -> usize {
        self.errors.0.len()
    }

    /// The names of a setting in the command that is being run.
    pub(crate) fn name(&self, setting: &Setting) -> SettingName {
        setting.name_without(self.without)
    }

    /// Notes a problem.
    pub(crate) fn push(&mut self, error: ConfigError) {
        self.errors.0.push(error);
    }

    /// Notes a value that is not allowed. A user name and password at its start are not repeated.
    pub(crate) fn invalid(&mut self, name: SettingName, value: &str, allowed: impl Into<String>) {
        self.push(ConfigError::Invalid {
            setting: name,
            value: without_user(value),
            allowed: allowed.into(),
        });
    }

    /// Notes a setting that is needed.
    pub(crate) fn missing(&mut self, setting: &Setting, needed: impl Into<String>) {
        let error = ConfigError::Missing {
            setting: self.name(setting),
            needed: needed.into(),
        };
        self.push(error);
    }

    /// Notes a value that needs a feature of this crate, unless the feature is on.
    pub(crate) fn needs(&mut self, setting: &Setting, on: bool, feature: &'static str) {
        if !on {
            let error = ConfigError::NotBuilt {
                setting: self.name(setting),
                value: without_user(&self.text(setting).unwrap_or_default()),
                feature,
            };
            self.push(error);
        }
    }

    /// A variable of another program. Empty text counts as absent.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        trimmed(&(self.environment)(name)?)
    }

    /// A folder or file that a variable of another program names.
    pub(crate) fn variable_path(&self, name: &str) -> Option<PathBuf> {
        (self.environment)(name).map(PathBuf::from)
    }

    /// The text of a setting, or of the first of its fallbacks that is set, with the names it came
    /// by. Empty text counts as absent, and space around it is ignored.
    pub(crate) fn given(&self, setting: &Setting) -> Option<(SettingName, String)> {
        let name = self.name(setting);
        if let Some(text) = self.values.get(setting.variable).and_then(trimmed) {
            return Some((name, text));
        }
        setting.fallbacks.iter().find_map(|variable| {
            let text = self.variable(variable)?;
            Some((SettingName { variable, ..name }, text))
        })
    }

    /// The text of a setting.
    pub(crate) fn text(&self, setting: &Setting) -> Option<String> {
        self.given(setting).map(|(_, text)| text)
    }

    /// Whether a setting itself is given.
    pub(crate) fn is_given(&self, setting: &Setting) -> bool {
        let value = self.values.get(setting.variable);
        value.and_then(trimmed).is_some()
    }

    /// Those of the settings that are given though nothing reads them, a sentence each.
    pub(crate) fn unused(&self, settings: &[&Setting], why: &str) -> Vec<String> {
        let unused = settings.iter().filter(|setting| self.is_given(setting));
        unused
            .map(|setting| format!("{} is set but not used: {why}", self.name(setting)))
            .collect()
    }

    /// A path, its bytes as they are.
    pub(crate) fn path(&self, setting: &Setting) -> Option<PathBuf> {
        let value = self.values.get(setting.variable);
        value.filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The value that `parse` makes of the text, if the setting is given.
    pub(crate) fn parsed<T>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Option<T>,
        allowed: impl FnOnce() -> String,
    ) -> Option<T> {
        let (name, text) = self.given(setting)?;
        let value = parse(&text);
        if value.is_none() {
            self.invalid(name, &text, allowed());
        }
        value
    }

    /// A whole number within a range, if it is given.
    pub(crate) fn optional_number<T>(
        &mut self,
        setting: &Setting,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(setting, parse, allowed)
    }

    /// A whole number within a range; the default is the table's.
    pub(crate) fn number<T>(&mut self, setting: &Setting, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display + Default,
    {
        let given = self.optional_number(setting, range);
        given.unwrap_or_else(|| setting.default.parse().unwrap_or_default())
    }

    /// A time within a range of seconds, if it is given.
    pub(crate) fn optional_time(
        &mut self,
        setting: &Setting,
        range: RangeInclusive<u64>,
    ) -> Option<Duration> {
        let seconds = range.start()..=range.end();
        let parse = |text: &str| time(text).filter(|time| seconds.contains(&&time.as_secs()));
        let allowed = || {
            let bound = |seconds: &u64| humantime::format_duration(Duration::from_secs(*seconds));
            format!(
                "a time from {} to {}, such as 90s, 30m, 6h or 30d; a number alone means seconds",
                bound(range.start()),
                bound(range.end())
            )
        };
        self.parsed(setting, parse, allowed)
    }

    /// A time within a range of seconds; the default is the table's.
    pub(crate) fn time(&mut self, setting: &Setting, range: RangeInclusive<u64>) -> Duration {
        let given = self.optional_time(setting, range);
        given.unwrap_or_else(|| time(setting.default).unwrap_or_default())
    }

    /// A size in bytes, if it is given.
    pub(crate) fn optional_size(&mut self, setting: &Setting) -> Option<u64> {
        let parse = |text: &str| text.parse().ok().map(|ByteSize(bytes)| bytes);
        let allowed =
            || "a size such as 500M, 100G, 100GiB or 2T; a number alone means bytes".into();
        self.parsed(setting, parse, allowed)
    }

    /// One of a few words, if it is given.
    pub(crate) fn optional_choice<T: Copy>(
        &mut self,
        setting: &Setting,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let allowed = || {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            words.join(", ")
        };
        self.parsed(setting, |text| choice(text, choices), allowed)
    }

    /// One of a few words; the default is the table's, which has to be among them.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        setting: &Setting,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let given = self.optional_choice(setting, choices);
        given.or_else(|| choice(setting.default, choices))
    }
}

/// The value without a user name and a password before a host.
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

/// The text without the space around it, if there is any.
fn trimmed(value: &OsString) -> Option<String> {
    let text = value.to_string_lossy();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A time in whole seconds with its unit, in seconds where it has none; capitals do not count.
fn time(text: &str) -> Option<Duration> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let time = humantime::parse_duration(&text.to_ascii_lowercase()).ok();
    time.filter(|time| time.subsec_nanos() == 0)
}

/// The URL without its trailing slash, if it is nothing but a scheme and an authority.
#[must_use]
pub(crate) fn origin(text: &str) -> Option<String> {
    let url = text.strip_suffix('/').unwrap_or(text);
    let host = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    crate::authority::is_authority(host).then(|| url.to_owned())
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
}
