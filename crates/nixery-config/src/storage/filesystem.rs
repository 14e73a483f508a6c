//! The folder of the filesystem store.

use super::Environment;
use std::path::PathBuf;

/// The folder for a service's data, by the conventions of systemd and XDG.
pub(super) fn default_path(environment: Environment<'_>) -> PathBuf {
    let absolute = |name| {
        environment(name)
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
