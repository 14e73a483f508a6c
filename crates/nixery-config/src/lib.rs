//! Configuration by flags and environment variables, checked before anything starts.
//!
//! The groups of flags are public, so that other commands over the same crates take the same ones:
//! `#[command(flatten)] source: SourceArgs`.

mod authority;
mod building;
mod delivery;
mod gc;
mod layering;
mod log;
mod server;
pub mod setup;
mod source;
mod storage;
mod traffic;
mod units;
mod value;

pub use authority::is_authority;
pub use building::{NixArgs, NixSettings};
pub use delivery::BlobDelivery;
pub use gc::{GcArgs, GcPolicyArgs, GcSettings};
pub use layering::{LayeringArgs, LayeringSettings, StrategySettings};
pub use log::{LogFormat, env_filter, start_text_log};
pub use server::{DEFAULT_HOLD_SECONDS, DEFAULT_PORT, HttpSettings, ServerArgs, ServerSettings};
pub use source::{DEFAULT_CHANNEL, SourceArgs};
pub use storage::{GcsArgs, S3Args, StorageArgs, StorageBackend, StorageSettings};
pub use traffic::{TrafficArgs, TrafficSettings};
pub use value::{ConfigError, ConfigErrors, Secret, Setting};

use nixery_core::PackageSource;

/// All flags of the registry, unchecked. Flatten it into a command, or fill it in code.
///
/// ```
/// use nixery_config::Config;
///
/// let mut config = Config::default();
/// config.server.port = Some("80800".into());
/// let errors = config.settings().unwrap_err();
/// assert_eq!(
///     errors.to_string(),
///     "PORT (--port) is \"80800\"; allowed: a whole number from 0 to 65535"
/// );
/// ```
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Config {
    /// Where packages come from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Where blobs are kept.
    #[command(flatten)]
    pub storage: StorageArgs,
    /// How the server listens and answers.
    #[command(flatten)]
    pub server: ServerArgs,
    /// How Nix is run.
    #[command(flatten)]
    pub nix: NixArgs,
    /// How layers are made.
    #[command(flatten)]
    pub layering: LayeringArgs,
    /// When garbage is collected.
    #[command(flatten)]
    pub gc: GcArgs,
    /// Whether pulls are recorded.
    #[command(flatten)]
    pub traffic: TrafficArgs,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where packages come from.
    pub source: PackageSource,
    /// Where blobs are kept.
    pub storage: StorageSettings,
    /// How the server listens and answers.
    pub server: ServerSettings,
    /// How Nix is run.
    pub nix: NixSettings,
    /// How layers are made.
    pub layering: LayeringSettings,
    /// When garbage is collected.
    pub gc: GcSettings,
    /// Whether pulls are recorded.
    pub traffic: TrafficSettings,
}

impl Config {
    /// Checks everything.
    ///
    /// # Errors
    /// Every value that is not allowed, each with its variable, its flag and what is allowed.
    pub fn settings(&self) -> Result<Settings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let source = errors.part(self.source.source());
        let storage = errors.part(self.storage.settings());
        let server = errors.part(self.server.settings());
        let nix = errors.part(self.nix.settings());
        let layering = errors.part(self.layering.settings());
        let gc = errors.part(self.gc.settings());
        let traffic = errors.part(self.traffic.settings());
        let all = || {
            Some(Settings {
                source: source?,
                storage: storage?,
                server: server?,
                nix: nix?,
                layering: layering?,
                gc: gc?,
                traffic: traffic?,
            })
        };
        match all() {
            Some(settings) => errors.finish(settings),
            None => Err(errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn every_flag_has_a_variable_and_the_originals_keep_their_names() {
        let command = Command::command();
        let variables: Vec<_> = command
            .get_arguments()
            .filter(|argument| argument.get_id() != "help")
            .map(|argument| {
                argument
                    .get_env()
                    .expect("a variable")
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        for original in [
            "PORT",
            "WEB_DIR",
            "NIXERY_CHANNEL",
            "NIXERY_PKGS_REPO",
            "NIXERY_PKGS_PATH",
            "NIXERY_STORAGE_BACKEND",
            "STORAGE_PATH",
            "GCS_BUCKET",
            "NIX_TIMEOUT",
            "NIX_POPULARITY_URL",
        ] {
            assert!(variables.contains(&original.to_owned()), "{original}");
        }
        command.debug_assert();
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
