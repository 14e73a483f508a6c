//! Where blobs are kept.

use super::value::{ConfigErrors, Setting, given, given_path};
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

const BACKEND: Setting = Setting::new("NIXERY_STORAGE_BACKEND", "--storage-backend");

/// Flags and variables of the blob store.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Blob store")]
pub struct StorageArgs {
    /// Kind of blob store: `filesystem` [default: filesystem]
    #[arg(long, env = "NIXERY_STORAGE_BACKEND", value_name = "KIND")]
    pub storage_backend: Option<String>,

    /// Folder of the filesystem store [default: `$STATE_DIRECTORY`, else `$XDG_DATA_HOME/nixery`,
    /// else `~/.local/share/nixery`, else `/var/lib/nixery`]
    #[arg(long, env = "STORAGE_PATH", value_name = "FOLDER")]
    pub storage_path: Option<OsString>,

    /// Folder for layers being packed and other files that may be lost [default: `spool` in the store]
    #[arg(long, env = "NIXERY_SPOOL_DIR", value_name = "FOLDER")]
    pub spool_dir: Option<OsString>,
}

/// A checked choice of blob store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageSettings {
    /// Which kind.
    pub backend: StorageBackend,
    /// Its folder.
    pub path: PathBuf,
    /// The folder for work in progress.
    pub spool: PathBuf,
}

impl fmt::Display for StorageSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "filesystem {}", self.path.display())
    }
}

/// The kinds of blob store this version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageBackend {
    /// A local folder.
    Filesystem,
}

impl StorageArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// A backend this version does not have.
    pub fn settings(&self) -> Result<StorageSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        match given(self.storage_backend.as_deref()) {
            None | Some("filesystem") => {}
            Some(known @ ("s3" | "gcs")) => errors.invalid(
                BACKEND,
                known,
                "filesystem (this version does not have the s3 and gcs backends yet)",
            ),
            Some(other) => errors.invalid(BACKEND, other, "filesystem"),
        }
        let path = given_path(self.storage_path.as_ref())
            .unwrap_or_else(|| default_path(|name| env::var_os(name)));
        let spool = given_path(self.spool_dir.as_ref()).unwrap_or_else(|| path.join("spool"));
        errors.finish(StorageSettings {
            backend: StorageBackend::Filesystem,
            path,
            spool,
        })
    }
}

/// The folder for a service's data, by the conventions of systemd and XDG.
fn default_path(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute() && path.parent().is_some())
    };
    if let Some(state) = absolute("STATE_DIRECTORY") {
        state
    } else if let Some(data) = absolute("XDG_DATA_HOME") {
        data.join("nixery")
    } else if let Some(home) = absolute("HOME") {
        home.join(".local/share/nixery")
    } else {
        PathBuf::from("/var/lib/nixery")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::service(&[("STATE_DIRECTORY", "/var/lib/n"), ("HOME", "/root")], "/var/lib/n")]
    #[case::data_home(&[("XDG_DATA_HOME", "/d"), ("HOME", "/home/a")], "/d/nixery")]
    #[case::home(&[("HOME", "/home/a")], "/home/a/.local/share/nixery")]
    #[case::relative_is_ignored(&[("XDG_DATA_HOME", "d"), ("HOME", "/home/a")], "/home/a/.local/share/nixery")]
    #[case::no_home(&[("HOME", "/")], "/var/lib/nixery")]
    #[case::nothing(&[], "/var/lib/nixery")]
    fn the_default_folder_follows_conventions(
        #[case] variables: &[(&str, &str)],
        #[case] expected: &str,
    ) {
        let path = default_path(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        });
        assert_eq!(path, PathBuf::from(expected));
    }

    #[test]
    fn a_backend_of_another_version_is_refused_by_name() {
        let arguments = StorageArgs {
            storage_backend: Some("gcs".into()),
            ..StorageArgs::default()
        };
        let message = arguments.settings().unwrap_err().to_string();
        assert!(
            message.contains("NIXERY_STORAGE_BACKEND (--storage-backend) is \"gcs\""),
            "{message}"
        );
        assert!(
            message.contains("does not have the s3 and gcs backends yet"),
            "{message}"
        );
    }
}
