//! Reading single settings: each is a flag and an environment variable, checked after parsing.
//!
//! All settings reach us as text. Checking them here rather than in the argument parser lets every message
//! name the variable *and* the flag, treats an empty variable as unset (as the original does), and reports
//! all that is wrong at once.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The names of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The environment variable.
    pub variable: &'static str,
    /// The command-line flag, with its dashes.
    pub flag: &'static str,
}

impl Setting {
    /// A setting with these names.
    #[must_use]
    pub const fn new(variable: &'static str, flag: &'static str) -> Self {
        Self { variable, flag }
    }
}

impl Display for Setting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.variable, self.flag)
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value outside of what the setting takes.
    #[error("{setting} is {value:?}; allowed: {allowed}")]
    Invalid {
        /// Which setting.
        setting: Setting,
        /// The value as given.
        value: String,
        /// What may stand there.
        allowed: String,
    },
    /// A setting that has to be given.
    #[error("{setting} is not set; needed: {needed}")]
    Missing {
        /// Which setting.
        setting: Setting,
        /// What has to stand there.
        needed: String,
    },
    /// Settings of which only one may be given.
    #[error("{} are set; allowed: exactly one of them, as it selects the package source", list(.settings))]
    Exclusive {
        /// Those that were given.
        settings: Vec<Setting>,
    },
}

fn list(settings: &[Setting]) -> String {
    let names: Vec<_> = settings.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Notes a problem.
    pub fn push(&mut self, error: ConfigError) {
        self.0.push(error);
    }

    /// Notes a value that is not allowed.
    pub fn invalid(&mut self, setting: Setting, value: &str, allowed: impl Into<String>) {
        self.push(ConfigError::Invalid {
            setting,
            value: value.to_owned(),
            allowed: allowed.into(),
        });
    }

    /// Notes a setting that has to be given.
    pub fn missing(&mut self, setting: Setting, needed: impl Into<String>) {
        self.push(ConfigError::Missing {
            setting,
            needed: needed.into(),
        });
    }

    /// The value if nothing was noted.
    ///
    /// # Errors
    /// The noted problems.
    pub fn finish<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }

    /// The value of a part of the configuration; its problems are noted here.
    pub fn part<T>(&mut self, part: Result<T, Self>) -> Option<T> {
        part.map_err(|errors| self.0.extend(errors.0)).ok()
    }

    /// A whole number within a range, `default` where nothing is given.
    pub fn number<T>(
        &mut self,
        setting: Setting,
        value: Option<&str>,
        default: T,
        range: RangeInclusive<T>,
    ) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = given(value) else {
            return default;
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (least, most) = range.into_inner();
                let allowed = format!("a whole number from {least} to {most}");
                self.invalid(setting, text, allowed);
                default
            }
        }
    }

    /// A time in whole seconds within a range, `default` seconds where nothing is given.
    pub fn seconds(
        &mut self,
        setting: Setting,
        value: Option<&str>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Duration {
        let noted = self.0.len();
        let seconds = self.number(setting, value, default, range);
        if let Some(ConfigError::Invalid { allowed, .. }) = self.0.get_mut(noted) {
            allowed.push_str(" (seconds)");
        }
        Duration::from_secs(seconds)
    }

    /// One of a few words, `default` where nothing is given.
    pub fn choice<T: Copy>(
        &mut self,
        setting: Setting,
        value: Option<&str>,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let Some(text) = given(value) else {
            return default;
        };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return *choice;
        }
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        self.invalid(setting, text, words.join(", "));
        default
    }
}

/// A value that no log and no message may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self(value.to_owned())
    }

    /// Returns the value, for use and not for display.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Hides the value.
impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// A value that is set: empty text counts as absent, space around it as a slip.
#[must_use]
pub(super) fn given(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

/// A path that is set.
#[must_use]
pub(super) fn given_path(value: Option<&OsString>) -> Option<PathBuf> {
    value.filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The URL without its trailing slash, if it is nothing but a scheme and an authority.
#[must_use]
pub(super) fn origin(text: &str) -> Option<String> {
    let url = text.strip_suffix('/').unwrap_or(text);
    let host = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    crate::authority::is_authority(host).then(|| url.to_owned())
}
