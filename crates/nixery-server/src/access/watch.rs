//! Reads the files of access again when they change.

use std::time::Duration;

use nixery_storage::error_chain;

use super::{Access, files};

/// Time between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(5);

impl Access {
    /// Reads the files, and the keys of a token service, again and again, and uses them from then
    /// on. Never returns.
    pub async fn watch_files(&self) {
        // A token service that does not answer does not delay the files.
        tokio::join!(watch_own(self), watch_keys(self));
    }
}

async fn watch_keys(access: &Access) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Some(keys) = &access.keys {
            keys.refresh().await;
        }
    }
}

/// Reads the files of users, tokens and the policy. One that cannot be used is logged once, and the
/// one before stays in use. A change is used when a second reading finds the same, because somebody
/// may have written only half of a file at the first one.
async fn watch_own(access: &Access) {
    let (mut logged, mut found) = (None, None);
    loop {
        tokio::time::sleep(INTERVAL).await;
        access.attempts.shrink();
        access.unknown_keys.shrink();
        access.quotas.shrink();
        match files::read(access.settings.clone(), access.files().digest).await {
            Ok(None) => (logged, found) = (None, None),
            Ok(Some(files)) if found != files.digest => found = files.digest,
            Ok(Some(files)) => {
                access.replace_files(files);
                tracing::info!("the files of users, tokens and the policy are read again");
                (logged, found) = (None, None);
            }
            Err(error) => {
                found = None;
                let error = error_chain(&error);
                if logged.as_ref() != Some(&error) {
                    tracing::error!(
                        error,
                        "a file of users, tokens or the policy cannot be used: the one before stays in use"
                    );
                    logged = Some(error);
                }
            }
        }
    }
}
