//! Reads the files of access again when they change.

use std::time::Duration;

use nixery_storage::error_chain;

use super::files;
use crate::state::AppState;

/// Time between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(5);

/// Reads the files of access again and again, and uses them from then on. A file that cannot be
/// used is logged once, and the one before stays in use.
pub(crate) async fn watch_files(state: AppState) {
    let access = state.access();
    let mut logged = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        access.attempts.shrink();
        access.quotas.shrink();
        if let Some(keys) = &access.keys {
            keys.refresh().await;
        }
        match files::read(access.settings.clone(), access.files().digest).await {
            Ok(None) => logged = None,
            Ok(Some(files)) => {
                access.replace_files(files);
                tracing::info!("the files of users, tokens and the policy are read again");
                logged = None;
            }
            Err(error) => {
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
