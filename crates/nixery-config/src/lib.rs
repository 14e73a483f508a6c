//! The settings of Nixery, and the store, Nix and builder that they describe.
//!
//! [`table`] lists all settings. Flags, environment variables, messages and the reference page are
//! generated from it. A command takes the groups it needs as [`Arguments`]:
//! `#[command(flatten)] nix: Arguments<NixSettings>`. [`setup`] opens what the settings describe.

mod access;
mod arguments;
mod building;
mod check;
mod environment;
mod gc;
mod layering;
mod log;
mod proxies;
pub mod reference;
mod server;
pub mod setup;
mod source;
mod storage;
pub mod table;
mod traffic;

pub use access::{AccessSettings, KeyLocation, TokenRealm, TokenSettings};
pub use arguments::{Arguments, Section};
pub use building::NixSettings;
pub use check::{Checker, ConfigErrors, is_authority};
pub use environment::unknown_variables;
pub use gc::GcSettings;
pub use layering::{LayeringSettings, StrategySettings};
pub use log::{LogFormat, env_filter, start_text_log};
pub use proxies::TrustedProxies;
pub use server::{BlobDelivery, HttpSettings, ServerSettings, TlsSettings};
pub use source::DEFAULT_CHANNEL;
pub use storage::{StorageBackend, StorageSettings};
pub use traffic::{Salt, TrafficSettings};

use nixery_core::PackageSource;

use table::Group;

/// All checked settings of the registry.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The package source.
    pub source: PackageSource,
    /// The blob store.
    pub storage: StorageSettings,
    /// The HTTP server.
    pub server: ServerSettings,
    /// Who may pull what.
    pub access: AccessSettings,
    /// Nix.
    pub nix: NixSettings,
    /// Layers.
    pub layering: LayeringSettings,
    /// Garbage collection.
    pub gc: GcSettings,
    /// Recording of pulls.
    pub traffic: TrafficSettings,
}

impl Section for Settings {
    const GROUPS: &'static [Group] = Group::ALL;

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        // All of them before the first `?`, so that every problem is collected.
        let source = PackageSource::read(checker);
        let storage = StorageSettings::read(checker);
        let server = ServerSettings::read(checker);
        let access = AccessSettings::read(checker);
        let nix = NixSettings::read(checker);
        let layering = LayeringSettings::read(checker);
        let gc = GcSettings::read(checker);
        let traffic = TrafficSettings::read(checker);
        let (source, mut nix) = (source?, nix?);
        // The source is known here, so that the check at start evaluates as for images.
        let is_git = matches!(source, PackageSource::Git { .. });
        nix.restrict_eval.get_or_insert(is_git);
        // A policy decides by the tag, which does not show whether it selects the default branch.
        let is_limited = access.as_ref().is_some_and(AccessSettings::is_configured);
        nix.versions_of_git = !is_limited;
        nix.needs_git = is_git;
        Some(Self {
            source,
            storage: storage?,
            server: server?,
            access: access?,
            nix,
            layering: layering?,
            gc: gc?,
            traffic: traffic?,
        })
    }
}

impl Settings {
    /// Returns warnings about settings that have no effect or do not fit together.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let ignored = [
            &self.server.ignored,
            &self.access.ignored,
            &self.storage.ignored,
            &self.layering.ignored,
            &self.gc.ignored,
            &self.traffic.ignored,
        ];
        let mut warnings: Vec<_> = ignored.into_iter().flatten().cloned().collect();
        let longest_build = self.nix.evaluate_timeout + self.nix.realise_timeout;
        warnings.extend(self.gc.warning(longest_build));
        warnings.extend(self.server.warning());
        warnings.extend(self.access.warnings(&self.server));
        if !self.nix.channels.is_empty() && !matches!(self.source, PackageSource::Channel(_)) {
            warnings.push(format!(
                "{} has no effect: the package source is no channel",
                table::CHANNELS
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Level;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        config: Arguments<Settings>,
    }

    #[test]
    fn the_help_shows_all_but_advanced_settings() {
        let mut command = Command::command();
        command.clone().debug_assert();
        let help = command.render_long_help().to_string();
        for setting in table::SETTINGS {
            let shown = help.contains(&format!("[env: {}", setting.variable));
            assert_eq!(shown, setting.level == Level::Shown, "{}", setting.variable);
        }
    }

    #[test]
    fn a_summary_shows_what_is_set_and_no_secret() {
        let arguments = Arguments::<Settings>::default()
            .with(table::PKGS_REPO, "https://u:hunter2@example.org/pkgs.git")
            .with(table::HISTORY, "7");
        let summary = arguments.summary();
        let line = |variable: &str| {
            let line = summary.lines().find(|line| line.starts_with(variable));
            line.map(|line| line.trim_start_matches(variable).trim_start().to_owned())
        };
        assert_eq!(
            line("NIXERY_PKGS_REPO").as_deref(),
            Some("(set, not shown)")
        );
        assert_eq!(line("NIXERY_HISTORY").as_deref(), Some("7"));
        assert_eq!(line("PORT").as_deref(), Some("(default) 8080"));
        assert_eq!(line("NIXERY_SPOOL_DIR"), None);
        assert!(!summary.contains("hunter2"), "{summary}");
    }

    #[test]
    fn flags_reach_their_settings() {
        let command = Command::try_parse_from([
            "nixery-server",
            "--port=0",
            "--pkgs-path=/",
            "--storage-path=/srv/nixery",
            "--hold-seconds=1",
            "--layer-budget=10",
            "--nix-timeout=7",
        ]);
        let settings = command.unwrap().config.settings().unwrap();
        assert_eq!(settings.server.port, 0);
        assert_eq!(settings.source.kind(), "path");
        assert_eq!(settings.storage.spool.to_str(), Some("/srv/nixery/spool"));
        assert_eq!(settings.server.http.hold.as_secs(), 1);
        assert_eq!(settings.layering.budget.get(), 10);
        assert_eq!(settings.nix.realise_timeout.as_secs(), 7);
    }

    #[test]
    fn the_wrong_values_of_all_groups_are_reported_together() {
        let command = Command::try_parse_from([
            "nixery-server",
            "--port=x",
            "--pkgs-path=/no/such",
            "--storage-backend=tape",
            "--layer-budget=0",
            "--nix-timeout=never",
        ]);
        let errors = command.unwrap().config.settings().unwrap_err();
        assert_eq!(errors.0.len(), 5, "{errors}");
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
