//! Files that change while the server runs. The clock is paused, so that no time passes.

use std::time::Duration;

use nixery_server::config::table::{HTPASSWD, POLICY, TOKENS};
use tokio::task::JoinHandle;

use super::{ALICE, BOB, CI_TOKEN, Files, HTOP_FOR_BOB, PASSWORDS, basic, bearer, pull};
use crate::registry::Registry;

async fn start(files: &Files) -> (Registry, JoinHandle<()>) {
    let registry = files.registry().await;
    let state = registry.state.clone();
    let watching = tokio::spawn(async move { state.access().watch_files().await });
    (registry, watching)
}

/// Waits until the files were read again.
async fn reload() {
    tokio::time::sleep(Duration::from_secs(11)).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_password_counts_and_the_old_one_no_more() {
    let files = Files::with_users();
    let (registry, _watching) = start(&files).await;
    let (old, new) = (basic(ALICE), basic(("alice", BOB.1)));
    assert_eq!(pull(&registry, "git", &old).await.status, 200);
    assert_eq!(pull(&registry, "git", &new).await.status, 401);
    let hash_of_bob = PASSWORDS.lines().nth(1).unwrap().split_once(':').unwrap().1;
    files.write(HTPASSWD, &format!("alice:{hash_of_bob}\n"));
    reload().await;
    assert_eq!(pull(&registry, "git", &old).await.status, 401);
    assert_eq!(pull(&registry, "git", &new).await.status, 200);
    assert_eq!(pull(&registry, "git", &basic(BOB)).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_removed_token_counts_no_more() {
    let files = Files::with_users();
    let (registry, _watching) = start(&files).await;
    let ci = [bearer(CI_TOKEN), basic(("ci", CI_TOKEN))];
    for login in &ci {
        assert_eq!(pull(&registry, "git", login).await.status, 200);
    }
    files.write(TOKENS, "");
    reload().await;
    for login in &ci {
        assert_eq!(pull(&registry, "git", login).await.status, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_counts() {
    let files = Files::with_policy(HTOP_FOR_BOB);
    let (registry, _watching) = start(&files).await;
    let bob = basic(BOB);
    assert_eq!(pull(&registry, "htop", &bob).await.status, 200);
    assert_eq!(pull(&registry, "git", &bob).await.status, 403);
    files.write(POLICY, &HTOP_FOR_BOB.replace("htop", "git"));
    reload().await;
    assert_eq!(pull(&registry, "htop", &bob).await.status, 403);
    assert_eq!(pull(&registry, "git", &bob).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_changes_nothing() {
    let files = Files::with_policy(HTOP_FOR_BOB);
    let (registry, _watching) = start(&files).await;
    files.write(POLICY, "[[allow]\n");
    files.write(HTPASSWD, "");
    reload().await;
    assert_eq!(pull(&registry, "htop", &basic(BOB)).await.status, 200);
    assert_eq!(pull(&registry, "git", &basic(BOB)).await.status, 403);
    std::fs::remove_file(files.path(POLICY)).unwrap();
    reload().await;
    assert_eq!(pull(&registry, "git", &basic(BOB)).await.status, 403);
    // All files are used again when each of them can be.
    files.write(POLICY, HTOP_FOR_BOB);
    reload().await;
    assert_eq!(pull(&registry, "htop", &basic(BOB)).await.status, 401);
}
