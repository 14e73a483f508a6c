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

/// Waits until the files were read twice.
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

/// An editor may write a file in several steps.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_half_written_is_not_used() {
    const ALL: &str = "[[allow]]\nwho = [\"bob\"]\npackages = [\"*\"]\n";
    let files = Files::with_policy(HTOP_FOR_BOB);
    let (registry, _watching) = start(&files).await;
    let bob = basic(BOB);
    files.write(POLICY, ALL);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(pull(&registry, "git", &bob).await.status, 403);
    let whole = format!("{ALL}[[deny]]\nwho = [\"bob\"]\npackages = [\"git\"]\n");
    files.write(POLICY, &whole);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(pull(&registry, "git", &bob).await.status, 403);
    assert_eq!(pull(&registry, "jq", &bob).await.status, 403);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(pull(&registry, "git", &bob).await.status, 403);
    assert_eq!(pull(&registry, "jq", &bob).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_the_policy_passwords_are_not_verified_again() {
    let files = Files::with_policy(HTOP_FOR_BOB);
    let (registry, _watching) = start(&files).await;
    let bob = basic(BOB);
    assert_eq!(pull(&registry, "htop", &bob).await.status, 200);
    files.write(POLICY, &HTOP_FOR_BOB.replace("htop", "git"));
    reload().await;
    // Another verification would be one attempt too many.
    for number in 0..10 {
        let wrong = basic(("bob", &format!("wrong {number}")));
        let expected = if number < 9 { 401 } else { 429 };
        assert_eq!(pull(&registry, "git", &wrong).await.status, expected);
    }
    assert_eq!(pull(&registry, "git", &bob).await.status, 200);
}
