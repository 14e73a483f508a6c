//! Arguments of commands, made from the table of settings.
//!
//! The argument parser takes every setting as text, which is checked later. So a message can name
//! the variable and the flag, an empty variable counts as unset, as in the original, and everything
//! that is wrong is reported at once.

use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;

use clap::{Arg, ArgMatches, Command};

use crate::check::{Checker, ConfigErrors, Values, trimmed};
use crate::table::{Group, Level, SETTINGS, Setting};

/// Settings that are read from some groups of the table and checked.
pub trait Section: Sized {
    /// The groups.
    const GROUPS: &'static [Group];

    /// What flags begin with in the table, but not in commands that take this section.
    const FLAG_PREFIX: &'static str = "";

    /// Reads the settings. Without a result, the checker has the reason.
    fn read(checker: &mut Checker<'_>) -> Option<Self>;
}

/// Flags and variables of a [`Section`], unchecked. Flatten it into a command, or fill it in code.
///
/// ```
/// use nixery_config::{Arguments, ServerSettings, table};
///
/// let server = Arguments::<ServerSettings>::default().with(table::PORT, "80800");
/// assert_eq!(
///     server.settings().unwrap_err().to_string(),
///     "PORT (--port) is \"80800\"; allowed: a whole number from 0 to 65535"
/// );
/// ```
#[derive(Clone)]
pub struct Arguments<S> {
    values: Values,
    section: PhantomData<fn() -> S>,
}

impl<S> Default for Arguments<S> {
    fn default() -> Self {
        Self {
            values: Values::new(),
            section: PhantomData,
        }
    }
}

/// Shows which settings are set, without their values: some are secret.
impl<S> fmt::Debug for Arguments<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.values.keys()).finish()
    }
}

impl<S: Section> Arguments<S> {
    fn table() -> impl Iterator<Item = &'static Setting> {
        let settings = SETTINGS.iter().copied();
        settings.filter(|setting| S::GROUPS.contains(&setting.group))
    }

    /// Returns the names of a setting in commands that take this section.
    #[must_use]
    pub fn name(setting: &Setting) -> String {
        setting.name(setting.variable, S::FLAG_PREFIX)
    }

    /// Sets a value as a flag does.
    #[must_use]
    pub fn with(mut self, setting: &Setting, value: impl Into<OsString>) -> Self {
        self.values.insert(setting.variable, value.into());
        self
    }

    /// Whether any of the settings is set.
    #[must_use]
    pub fn given(&self) -> bool {
        self.values.values().any(|value| trimmed(value).is_some())
    }

    /// Checks the settings. From now on, the logs and errors of builds do not show the values of
    /// secret settings, nor other secrets in the environment of this process.
    ///
    /// # Errors
    /// Every value that is not allowed or missing, each with its variable and flag.
    pub fn settings(&self) -> Result<S, ConfigErrors> {
        nixery_nix::add_secrets_of_environment();
        let secret = Self::table().filter(|setting| setting.secret);
        for value in secret.filter_map(|setting| self.values.get(setting.variable)) {
            nixery_nix::add_secret(&value.to_string_lossy());
        }
        self.settings_in(&|name| std::env::var_os(name))
    }

    /// Like [`Self::settings`], with another environment for variables of other programs.
    pub(crate) fn settings_in(
        &self,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<S, ConfigErrors> {
        let mut checker = Checker::new(&self.values, environment, S::FLAG_PREFIX);
        let settings = S::read(&mut checker);
        checker.finish(settings)
    }

    /// Returns the settings in effect, one per line. Values of secret settings are not shown, and
    /// advanced settings are left out unless they are set.
    #[must_use]
    pub fn summary(&self) -> String {
        let environment = |name: &str| std::env::var_os(name);
        let checker = Checker::new(&self.values, &environment, S::FLAG_PREFIX);
        let mut lines = String::new();
        for setting in Self::table() {
            let shown = match checker.text(setting) {
                Some(_) if setting.secret => "(set, not shown)".to_owned(),
                Some(value) => value,
                None if setting.level == Level::Advanced => continue,
                None if setting.default.is_empty() => "(not set)".to_owned(),
                None => format!("(default) {}", setting.default),
            };
            lines += &format!("{:<32}{shown}\n", setting.variable);
        }
        lines
    }

    fn argument(setting: &'static Setting) -> Arg {
        let help = match setting.default {
            "" => setting.help.to_owned(),
            default => format!("{} [default: {default}]", setting.help),
        };
        Arg::new(setting.variable)
            .long(setting.flag_without(S::FLAG_PREFIX))
            .env(setting.variable)
            .value_name(setting.value)
            .value_parser(clap::value_parser!(OsString))
            .help(help)
            .help_heading(setting.group.heading())
            .hide(setting.level == Level::Advanced)
            .hide_env_values(setting.secret)
    }
}

impl<S: Section> clap::Args for Arguments<S> {
    fn augment_args(command: Command) -> Command {
        command.args(Self::table().map(Self::argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Section> clap::FromArgMatches for Arguments<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = Self::default();
        arguments.update_from_arg_matches(matches)?;
        Ok(arguments)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in Self::table() {
            if let Some(value) = matches.get_one::<OsString>(setting.variable) {
                self.values.insert(setting.variable, value.clone());
            }
        }
        Ok(())
    }
}
