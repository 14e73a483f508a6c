//! Where packages come from.

use super::value::{ConfigError, ConfigErrors, Setting, given, given_path};
use nixery_core::PackageSource;
use std::ffi::OsString;

const CHANNEL: Setting = Setting::new("NIXERY_CHANNEL", "--channel");
const REPOSITORY: Setting = Setting::new("NIXERY_PKGS_REPO", "--pkgs-repo");
const PATH: Setting = Setting::new("NIXERY_PKGS_PATH", "--pkgs-path");

/// The channel that is served when no package source is set: the current stable release.
pub const DEFAULT_CHANNEL: &str = "nixos-26.05";

/// Flags and variables of the package source; at most one may be given.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Package source (at most one)")]
pub struct SourceArgs {
    /// nixpkgs channel or commit [default: nixos-26.05, if no other source is given]
    #[arg(long, env = "NIXERY_CHANNEL", value_name = "CHANNEL")]
    pub channel: Option<String>,

    // Its value may hold a password, which help must not print.
    /// git repository with a package set; the image tag selects a branch, tag or commit
    #[arg(
        long,
        env = "NIXERY_PKGS_REPO",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub pkgs_repo: Option<String>,

    /// Local folder or file with a package set
    #[arg(long, env = "NIXERY_PKGS_PATH", value_name = "PATH")]
    pub pkgs_path: Option<OsString>,
}

impl SourceArgs {
    /// Whether a source is named, and not only the default one meant.
    pub fn given(&self) -> bool {
        given(self.channel.as_deref()).is_some()
            || given(self.pkgs_repo.as_deref()).is_some()
            || given_path(self.pkgs_path.as_ref()).is_some()
    }

    /// Checks the settings; a relative path is taken from the current directory.
    ///
    /// # Errors
    /// More than one source, or one that Nix or git would misunderstand.
    pub fn source(&self) -> Result<PackageSource, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let channel = given(self.channel.as_deref());
        let repository = given(self.pkgs_repo.as_deref());
        let path = given_path(self.pkgs_path.as_ref());

        let settings: Vec<_> = [
            channel.map(|_| CHANNEL),
            repository.map(|_| REPOSITORY),
            path.as_ref().map(|_| PATH),
        ]
        .into_iter()
        .flatten()
        .collect();
        if settings.len() > 1 {
            errors.push(ConfigError::Exclusive { settings });
            return Err(errors);
        }

        let (setting, value, source) = if let Some(repository) = repository {
            let source = PackageSource::git(repository);
            (REPOSITORY, repository.to_owned(), source)
        } else if let Some(path) = path {
            let shown = path.display().to_string();
            // Without a current directory the path stays relative, and is refused as such.
            let absolute = std::path::absolute(&path).unwrap_or(path);
            if !absolute.exists() {
                errors.invalid(PATH, &shown, "a folder or file that exists");
                return Err(errors);
            }
            (PATH, shown, PackageSource::path(absolute))
        } else {
            let channel = channel.unwrap_or(DEFAULT_CHANNEL);
            (CHANNEL, channel.to_owned(), PackageSource::channel(channel))
        };
        match source {
            Ok(source) => Ok(source),
            Err(error) => {
                errors.invalid(setting, &value, format!("what Nix can fetch ({error})"));
                Err(errors)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn arguments(channel: &str, repository: &str, path: &str) -> SourceArgs {
        SourceArgs {
            channel: Some(channel.into()),
            pkgs_repo: Some(repository.into()),
            pkgs_path: Some(path.into()),
        }
    }

    #[rstest]
    #[case::none("", "", "", "nixpkgs")]
    #[case::channel("nixos-unstable", "", "", "nixpkgs")]
    #[case::repository("", "https://example.org/pkgs.git", "", "git")]
    #[case::path("", "", "/", "path")]
    #[case::relative_path("", "", ".", "path")]
    fn one_source_is_taken_and_empty_ones_are_not_there(
        #[case] channel: &str,
        #[case] repository: &str,
        #[case] path: &str,
        #[case] kind: &str,
    ) {
        let source = arguments(channel, repository, path).source().unwrap();
        assert_eq!(source.kind(), kind);
    }

    #[rstest]
    #[case::two(
        "nixos-26.05",
        "",
        "/",
        "NIXERY_CHANNEL (--channel) and NIXERY_PKGS_PATH (--pkgs-path) are set; allowed: exactly one"
    )]
    #[case::three("a", "b", "c", "NIXERY_PKGS_REPO")]
    #[case::channel(
        "nixos 26",
        "",
        "",
        "NIXERY_CHANNEL (--channel) is \"nixos 26\"; allowed:"
    )]
    #[case::repository("", "not a url", "", "NIXERY_PKGS_REPO (--pkgs-repo) is \"not a url\"")]
    #[case::path(
        "",
        "",
        "/no/such/folder",
        "NIXERY_PKGS_PATH (--pkgs-path) is \"/no/such/folder\"; allowed: a folder or file that exists"
    )]
    fn a_wrong_source_is_refused_by_name(
        #[case] channel: &str,
        #[case] repository: &str,
        #[case] path: &str,
        #[case] expected: &str,
    ) {
        let message = arguments(channel, repository, path)
            .source()
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
}
