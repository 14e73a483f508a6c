//! Arguments of commands, made from the table of settings.
//!
//! All settings reach us as text. Checking them here rather than in the argument parser lets every
//! message name the variable *and* the flag, treats an empty variable as unset (as the original
//! does), and reports all that is wrong at once.

use crate::check::{Checker, ConfigErrors};
use crate::table::{Group, Level, SETTINGS, Setting, SettingName};
use clap::{Arg, ArgMatches, Command};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;

/// Checked settings that are read from some groups of the table.
pub trait Section: Sized {
    /// The groups.
    const GROUPS: &'static [Group];

    /// What flags begin with in the table and not in commands that take this section.
    const WITHOUT: &'static str = "";

    /// Reads the settings. Where there is no result, the checker has noted why.
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

/// Texts by variable.
pub(crate) type Values = BTreeMap<&'static str, OsString>;

impl<S> Default for Arguments<S> {
    fn default() -> Self {
        Self {
            values: Values::new(),
            section: PhantomData,
        }
    }
}

/// Shows which settings are given, without their values: some are secret.
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

    /// The names of a setting in commands that take this section.
    #[must_use]
    pub fn name(setting: &Setting) -> SettingName {
        setting.name_without(S::WITHOUT)
    }

    /// Sets a value as a flag does.
    #[must_use]
    pub fn with(mut self, setting: &Setting, value: impl Into<OsString>) -> Self {
        self.values.insert(setting.variable, value.into());
        self
    }

    /// Whether any setting has a value.
    #[must_use]
    pub fn given(&self) -> bool {
        self.values.values().any(|value| !is_blank(value))
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Every value that is not allowed or missing, each with its variable and flag.
    pub fn settings(&self) -> Result<S, ConfigErrors> {
        self.settings_in(&|name| std::env::var_os(name))
    }

    /// The same, with the environment in which variables of other programs are looked up.
    pub(crate) fn settings_in(
        &self,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<S, ConfigErrors> {
        let mut checker = Checker::new(&self.values, environment, S::WITHOUT);
        let settings = S::read(&mut checker);
        checker.finish(settings)
    }

    /// The settings in effect, one per line. Values of secret settings are not shown; advanced
    /// settings are left out unless they are set.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut lines = String::new();
        for setting in Self::table() {
            let own = self.values.get(setting.variable).cloned();
            let others = setting.fallbacks.iter().filter_map(std::env::var_os);
            let mut values = own.into_iter().chain(others);
            let shown = match values.find(|value| !is_blank(value)) {
                Some(_) if setting.secret => "(set, not shown)".to_owned(),
                Some(value) => value.to_string_lossy().trim().to_owned(),
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
            .long(Self::name(setting).flag)
            .env(setting.variable)
            .value_name(setting.value)
            .value_parser(clap::value_parser!(OsString))
            .help(help)
            .help_heading(setting.group.heading())
            .hide(setting.level == Level::Advanced)
            .hide_env_values(setting.secret)
    }
}

fn is_blank(value: &OsString) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
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
