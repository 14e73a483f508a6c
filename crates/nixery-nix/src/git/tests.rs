//! Mirrors of real repositories, with real git.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nixery_core::{PackageSource, Tag};
use rstest::rstest;
use tempfile::TempDir;

use super::*;
use crate::environment::ChildEnvironment;

/// Runs git in `dir` and returns what it prints.
fn git(dir: &Path, args: &[&str]) -> String {
    let git = Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("git runs");
    let messages = String::from_utf8_lossy(&git.stderr);
    assert!(git.status.success(), "{args:?}: {messages}");
    let printed = String::from_utf8(git.stdout).expect("UTF-8");
    printed.trim().to_owned()
}

/// A repository, and mirrors of it.
struct Fixture {
    dir: TempDir,
    repository: PathBuf,
}

impl Fixture {
    /// The repository has the branch `trunk` (the default one), the branch `old` one commit before
    /// it, the tags `v1` (annotated) and `v2`, and a proposed change in `refs/pull/1/head`.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let repository = dir.path().join("repository");
        fs::create_dir(&repository).expect("mkdir");
        git(&repository, &["init", "-q", "--initial-branch=trunk"]);
        let fixture = Self { dir, repository };
        fixture.commit("first");
        fixture.git(&["branch", "old"]);
        fixture.git(&["tag", "-a", "-m", "One", "v1"]);
        fixture.commit("second");
        fixture.git(&["tag", "v2"]);
        fixture.git(&["checkout", "-q", "--detach"]);
        fixture.commit("proposed");
        fixture.git(&["update-ref", "refs/pull/1/head", "HEAD"]);
        fixture.git(&["checkout", "-q", "trunk"]);
        fixture
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.repository, args)
    }

    fn commit(&self, text: &str) {
        fs::write(self.repository.join("default.nix"), text).expect("write");
        self.git(&["add", "."]);
        self.git(&["commit", "-q", "-m", text]);
    }

    fn commit_of(&self, name: &str) -> String {
        self.git(&["rev-parse", &format!("{name}^{{commit}}")])
    }

    fn options(&self) -> MirrorOptions {
        MirrorOptions {
            mirrors: self.dir.path().join("mirrors"),
            patterns: RefPatterns::default(),
            any_commit: false,
            timeout: std::time::Duration::from_secs(60),
            env: ChildEnvironment::inherited(&[]),
        }
    }

    fn mirrors(&self) -> Mirrors {
        Mirrors::new(self.options())
    }

    /// Mirrors with a git that writes its arguments to a file, which is returned.
    fn logged_mirrors(&self) -> (Mirrors, PathBuf) {
        let (bin, log) = (self.dir.path().join("bin"), self.dir.path().join("log"));
        fs::create_dir(&bin).expect("mkdir");
        let path = std::env::var("PATH").expect("is set");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>{}\nPATH='{path}' exec git \"$@\"\n",
            log.display()
        );
        let program = bin.join("git");
        fs::write(&program, script).expect("write");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).expect("chmod");
        let path = format!("{}:{path}", bin.display());
        let options = MirrorOptions {
            env: ChildEnvironment::inherited(&[]).with("PATH", path),
            ..self.options()
        };
        (Mirrors::new(options), log)
    }

    fn address(&self) -> String {
        format!("file://{}", self.repository.display())
    }

    fn source(&self, tag: &str) -> ResolvedSource {
        source(&self.address(), tag)
    }

    /// The folder of the only mirror.
    fn mirror(&self) -> PathBuf {
        let mut folders = fs::read_dir(self.dir.path().join("mirrors")).expect("a folder");
        let folder = folders.next().expect("a mirror").expect("an entry").path();
        folder.join("repository")
    }
}

fn source(address: &str, tag: &str) -> ResolvedSource {
    let source = PackageSource::git(address).expect("valid");
    source.resolve(&Tag::parse(tag).expect("valid"))
}

async fn commit(mirrors: &Mirrors, source: &ResolvedSource) -> Result<String, NixError> {
    let resolved = mirrors.resolve(source, &BuildLog::default()).await?;
    Ok(resolved.revision.expect("is pinned"))
}

fn fetches(log: &Path) -> usize {
    let log = fs::read_to_string(log).expect("a log");
    log.lines().filter(|line| line.contains(" fetch ")).count()
}

#[track_caller]
fn unknown(result: Result<String, NixError>) -> String {
    match result {
        Err(NixError::Package(error @ PackageError::UnknownRevision { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn not_fetched(result: Result<String, NixError>) -> String {
    match result {
        Err(NixError::Package(PackageError::Source { message })) => message,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::default_branch("latest", "trunk")]
#[case::branch("old", "old")]
#[case::annotated_tag("v1", "v1")]
#[case::tag("v2", "v2")]
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn tags_are_pinned_to_commits(#[case] tag: &str, #[case] name: &str) {
    let fixture = Fixture::new();
    let (mirrors, log) = (fixture.mirrors(), BuildLog::default());
    let resolved = mirrors.resolve(&fixture.source(tag), &log).await;
    let resolved = resolved.expect("exists");
    let expected = fixture.commit_of(name);
    let url = fixture.address();
    let reference = match tag {
        "latest" => String::new(),
        tag => format!(r#""ref":"{tag}","#),
    };
    assert_eq!(
        resolved,
        ResolvedSource {
            src_type: "git",
            src_args: format!(r#"{{{reference}"rev":"{expected}","url":"{url}"}}"#),
            revision: Some(expected.clone()),
        }
    );
    // A commit is as it was requested, also without a fetch.
    let pinned = fixture.source(&expected);
    fs::rename(&fixture.repository, fixture.dir.path().join("away")).expect("renames");
    assert_eq!(
        mirrors.resolve(&pinned, &log).await.expect("exists"),
        pinned
    );
    let other = fixture.mirrors();
    assert_eq!(other.resolve(&pinned, &log).await.expect("exists"), pinned);

    let provided = mirrors.provide(&resolved, &log).await.expect("is there");
    let provided = provided.expect("is a repository");
    let mirror = fixture.mirror().canonicalize().expect("is there");
    let sent: serde_json::Value = serde_json::from_str(&provided.src_args).expect("JSON");
    assert_eq!(sent["url"], format!("file://{}", mirror.display()));
    assert_eq!(sent["rev"], expected);
    assert_eq!(sent["description"], provided.description);
}

#[tokio::test]
#[ignore = "needs git: run make test"]
async fn known_refs_are_those_of_the_mirror_that_can_be_tags() {
    let fixture = Fixture::new();
    fixture.git(&["branch", "feature/x", "trunk"]);
    let source = fixture.source("latest");
    let (mirrors, log) = fixture.logged_mirrors();
    let known = async |mirrors: &Mirrors, limit| {
        let known = mirrors.known_refs(&source, limit).await;
        let mut names = known.expect("reads");
        names.sort_unstable();
        names
    };
    assert_eq!(known(&mirrors, 1000).await, []);
    assert!(
        fs::read_to_string(&log)
            .expect("a log")
            .contains("for-each-ref")
    );
    assert_eq!(fetches(&log), 0);

    let fetched = fixture.mirrors();
    commit(&fetched, &source).await.expect("exists");
    let names = ["old", "trunk", "v1", "v2"].map(|name| Tag::parse(name).expect("valid"));
    assert_eq!(known(&fetched, 1000).await, names);
    assert_eq!(known(&fetched, 2).await.len(), 2);

    let path = PackageSource::path("/srv/pkgs").expect("valid");
    let none = mirrors.known_refs(&path.resolve(&Tag::latest()), 10).await;
    assert_eq!(none.expect("no repository"), []);
}

/// Tags can spell more than branches, tags and commits of a repository.
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn other_revisions_are_refused_with_what_is_allowed() {
    let fixture = Fixture::new();
    let mirrors = fixture.mirrors();
    let commit_of_trunk = fixture.commit_of("trunk");
    let tag_object = fixture.git(&["rev-parse", "v1"]);
    for tag in [
        fixture.commit_of("refs/pull/1/head").as_str(),
        "0123456789abcdef0123456789abcdef01234567",
        &tag_object,
        &fixture.git(&["rev-parse", "trunk^{tree}"]),
        &commit_of_trunk[..12],
        &format!("trunk-1-g{}", &commit_of_trunk[..12]),
        &commit_of_trunk.to_uppercase(),
        "HEAD",
        "FETCH_HEAD",
        "ORIG_HEAD",
        "refs",
        "mirror-head",
        "heads",
        "a..b",
        "trunk.lock",
        "no-such-branch",
    ] {
        let message = unknown(commit(&mirrors, &fixture.source(tag)).await);
        assert!(message.contains(&format!("`{tag}`")), "{message}");
        for name in ["`trunk`", "`old`", "`v1`"] {
            assert!(message.contains(name), "{message}");
        }
    }
    let expected = commit_of_trunk.clone();
    let found = commit(&mirrors, &fixture.source(&commit_of_trunk)).await;
    assert_eq!(found.expect("is in a branch"), expected);
}

/// Programs that use the library write the arguments themselves.
#[tokio::test]
async fn arguments_that_are_none_of_a_repository_are_refused() {
    let fixture = tempfile::tempdir().expect("temp dir");
    let mirrors = Mirrors::new(MirrorOptions {
        mirrors: fixture.path().to_owned(),
        patterns: RefPatterns::default(),
        any_commit: true,
        timeout: std::time::Duration::from_secs(60),
        env: ChildEnvironment::inherited(&[]),
    });
    for src_args in [
        "",
        "{}",
        r#"{"url":"/x","rev":"main"}"#,
        r#"{"url":"/x","rev":"--all"}"#,
    ] {
        let source = ResolvedSource {
            src_type: "git",
            src_args: src_args.to_owned(),
            revision: None,
        };
        not_fetched(commit(&mirrors, &source).await);
    }
    let path = PackageSource::path("/x")
        .expect("valid")
        .resolve(&Tag::latest());
    let same = mirrors.resolve(&path, &BuildLog::default()).await;
    assert_eq!(same.expect("is not one"), path);
}

#[tokio::test]
#[ignore = "needs git: run make test"]
async fn any_commit_is_accepted_only_if_that_is_configured() {
    let fixture = Fixture::new();
    let proposed = fixture.commit_of("refs/pull/1/head");
    let any = Mirrors::new(MirrorOptions {
        any_commit: true,
        ..fixture.options()
    });
    let found = commit(&any, &fixture.source(&proposed)).await;
    assert_eq!(found.expect("is served"), proposed);
    unknown(
        commit(
            &any,
            &fixture.source("0123456789abcdef0123456789abcdef01234567"),
        )
        .await,
    );
    unknown(commit(&any, &fixture.source("no-such-branch")).await);
    unknown(commit(&fixture.mirrors(), &fixture.source(&proposed)).await);
}

#[tokio::test]
#[ignore = "needs git: run make test"]
async fn the_refs_can_be_limited() {
    let fixture = Fixture::new();
    let limited = |patterns: &str| {
        Mirrors::new(MirrorOptions {
            patterns: patterns.parse().expect("valid"),
            ..fixture.options()
        })
    };
    let old = limited("refs/heads/ol*,refs/heads/no-such-branch");
    let found = commit(&old, &fixture.source("old")).await;
    assert_eq!(found.expect("is allowed"), fixture.commit_of("old"));
    let message = unknown(commit(&old, &fixture.source("trunk")).await);
    assert!(message.contains("Fix: use `old` or a commit"), "{message}");
    // The default branch is ahead of what is allowed.
    let message = unknown(commit(&old, &fixture.source("latest")).await);
    assert!(message.contains("no default branch that"), "{message}");
    unknown(commit(&old, &fixture.source(&fixture.commit_of("trunk"))).await);

    let pulls = limited("refs/heads/trunk refs/pull/*/head");
    for name in ["refs/pull/1/head", "trunk", "v1"] {
        let expected = fixture.commit_of(name);
        let found = commit(&pulls, &fixture.source(&expected)).await;
        assert_eq!(found.expect("is contained"), expected);
    }
    commit(&pulls, &fixture.source("latest"))
        .await
        .expect("is trunk");
    unknown(commit(&pulls, &fixture.source("v1")).await);
    let nothing = limited("refs/heads/no-such-branch");
    let message = unknown(commit(&nothing, &fixture.source("trunk")).await);
    assert!(message.contains("Fix: use a commit"), "{message}");
}

#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_request_sees_what_was_pushed_before_it() {
    let fixture = Fixture::new();
    let mirrors = fixture.mirrors();
    let before = commit(&mirrors, &fixture.source("trunk"))
        .await
        .expect("exists");
    fixture.commit("third");
    let after = commit(&mirrors, &fixture.source("trunk"))
        .await
        .expect("exists");
    assert_eq!(after, fixture.commit_of("trunk"));
    assert_ne!(before, after);

    // Taken back: nobody can build from it any more.
    fixture.git(&["reset", "-q", "--hard", &before]);
    let found = commit(&mirrors, &fixture.source("trunk")).await;
    assert_eq!(found.expect("exists"), before);
    unknown(commit(&mirrors, &fixture.source(&after)).await);

    // A branch below the name of one that is gone.
    fixture.git(&["branch", "-q", "-m", "old", "gone"]);
    fixture.git(&["branch", "-q", "old/new"]);
    commit(&mirrors, &fixture.source("latest"))
        .await
        .expect("exists");
    unknown(commit(&mirrors, &fixture.source("old")).await);
}

#[tokio::test]
#[ignore = "needs git: run make test"]
async fn requests_share_fetches() {
    let fixture = Fixture::new();
    let (mirrors, log) = fixture.logged_mirrors();
    commit(&mirrors, &fixture.source("trunk"))
        .await
        .expect("exists");
    assert_eq!(fetches(&log), 1);
    // Some of them may wait for the fetch of the first of them to end.
    let at_once = (0..20).map(|_| async { commit(&mirrors, &fixture.source("trunk")).await });
    let mut found = Vec::new();
    for request in tokio_join(at_once).await {
        found.push(request.expect("exists"));
    }
    assert_eq!(found.len(), 20);
    assert!((2..=3).contains(&fetches(&log)), "{}", fetches(&log));

    let (before, begun) = (fetches(&log), std::time::Instant::now());
    for n in 0..10 {
        unknown(commit(&mirrors, &fixture.source(&format!("none-{n}"))).await);
        let none = format!("{n:040x}");
        unknown(commit(&mirrors, &fixture.source(&none)).await);
    }
    let most = before + 1 + begun.elapsed().as_secs() as usize / 10;
    assert!(fetches(&log) <= most, "{} fetches", fetches(&log));
    // What is known needs none.
    let old = fixture.commit_of("old");
    let before = fetches(&log);
    commit(&mirrors, &fixture.source(&old))
        .await
        .expect("exists");
    assert_eq!(fetches(&log), before);
}

/// Runs futures at once, in one task.
async fn tokio_join<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut open: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
    let mut results = Vec::new();
    std::future::poll_fn(|context| {
        for future in &mut open {
            if let Some(running) = future
                && let std::task::Poll::Ready(result) = running.as_mut().poll(context)
            {
                results.push(result);
                *future = None;
            }
        }
        match open.iter().any(Option::is_some) {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
    results
}

#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_repository_without_a_default_branch_has_its_branches() {
    let fixture = Fixture::new();
    fixture.git(&["symbolic-ref", "HEAD", "refs/heads/none"]);
    let mirrors = fixture.mirrors();
    let found = commit(&mirrors, &fixture.source("trunk")).await;
    assert_eq!(found.expect("exists"), fixture.commit_of("trunk"));
    unknown(commit(&mirrors, &fixture.source("latest")).await);
}

#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_repository_may_lack_a_part_of_its_history() {
    let fixture = Fixture::new();
    let shallow = fixture.dir.path().join("shallow");
    let clone = ["clone", "-q", "--depth=1", &fixture.address()];
    git(
        fixture.dir.path(),
        &[&clone[..], &[&shallow.to_string_lossy()]].concat(),
    );
    let (mirrors, address) = (fixture.mirrors(), format!("file://{}", shallow.display()));
    let found = commit(&mirrors, &source(&address, "latest")).await;
    assert_eq!(found.expect("exists"), fixture.commit_of("trunk"));
    unknown(commit(&mirrors, &source(&address, &fixture.commit_of("old"))).await);
}

#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_repository_that_is_away_is_named_without_its_path() {
    let fixture = Fixture::new();
    let address = format!("file://{}/nowhere", fixture.dir.path().display());
    let message = not_fetched(commit(&fixture.mirrors(), &source(&address, "main")).await);
    let path = fixture.dir.path().to_string_lossy().into_owned();
    assert!(
        !message.contains(&path) && message.contains("nowhere"),
        "{message}"
    );

    let slow = Mirrors::new(MirrorOptions {
        timeout: std::time::Duration::from_secs(1),
        env: ChildEnvironment::inherited(&[]).with("GIT_SSH_COMMAND", "sleep 60 #"),
        ..fixture.options()
    });
    let message = not_fetched(commit(&slow, &source("ssh://host/x", "main")).await);
    assert!(
        message.starts_with("git did not finish in 1 s. Fix: try again"),
        "{message}"
    );
}

/// Killed processes and full disks leave such mirrors behind.
#[rstest]
#[case::deleted("rm -rf \"$PWD\"")]
#[case::emptied("rm -rf .git")]
#[case::no_objects("rm -rf .git/objects/*")]
#[case::no_head("echo x >.git/HEAD")]
#[case::no_configuration("echo [ >.git/config")]
#[case::locked("cd .git; touch packed-refs.lock refs/mirror/heads/trunk.lock shallow.lock")]
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_damaged_mirror_is_made_again(#[case] damage: &str) {
    let fixture = Fixture::new();
    let mut mirrors = fixture.mirrors();
    let log = BuildLog::default();
    for restart in [false, true] {
        let source = fixture.source("trunk");
        let resolved = mirrors.resolve(&source, &log).await.expect("exists");
        let mut script = Command::new("sh");
        script.args(["-euc", damage]).current_dir(fixture.mirror());
        assert!(script.status().expect("sh runs").success());
        if restart {
            mirrors = fixture.mirrors();
        }
        fixture.commit(&format!("after {restart}"));
        let found = commit(&mirrors, &source).await.expect("is fetched again");
        assert_eq!(found, fixture.commit_of("trunk"));
        // What was resolved before is still there for Nix.
        mirrors.provide(&resolved, &log).await.expect("is there");
        git(&fixture.mirror(), &["cat-file", "-e", &found]);
    }
}

/// The password of a user is what the operator's helper says, and a user name alone may be a token.
#[rstest]
#[case::helper("me", "!echo password=p@ss/word; :", true)]
#[case::helper_without_an_answer("me", "!:", false)]
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_user_name_alone_leaves_the_password_to_helpers(
    #[case] user: &str,
    #[case] helper: &str,
    #[case] is_known: bool,
) {
    let fixture = Fixture::new();
    fixture.git(&["update-server-info"]);
    let server = serve(fixture.repository.join(".git"), "bWU6cEBzcy93b3Jk");
    let mirrors = Mirrors::new(MirrorOptions {
        env: ChildEnvironment::inherited(&[])
            .with("GIT_CONFIG_COUNT", "1")
            .with("GIT_CONFIG_KEY_0", "credential.helper")
            .with("GIT_CONFIG_VALUE_0", helper)
            .with("GIT_TERMINAL_PROMPT", "0"),
        ..fixture.options()
    });
    let address = format!("http://{user}@{server}/");
    let found = commit(&mirrors, &source(&address, "trunk")).await;
    match is_known {
        true => assert_eq!(found.expect("may be read"), fixture.commit_of("trunk")),
        false => drop(not_fetched(found)),
    }
}

/// A token is a user name without a password.
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_token_needs_no_password() {
    let fixture = Fixture::new();
    fixture.git(&["update-server-info"]);
    // t0ken:
    let server = serve(fixture.repository.join(".git"), "dDBrZW46");
    let address = format!("http://t0ken@{server}/");
    let found = commit(&fixture.mirrors(), &source(&address, "trunk")).await;
    assert_eq!(found.expect("may be read"), fixture.commit_of("trunk"));
}

/// Builders without a sandbox can write to the mirror.
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn the_configuration_of_a_mirror_adds_no_protocols() {
    let fixture = Fixture::new();
    let (mirrors, made) = (fixture.mirrors(), fixture.dir.path().join("made"));
    commit(&mirrors, &fixture.source("trunk"))
        .await
        .expect("exists");
    let replacement = format!("url.ext::touch {}.insteadOf", made.display());
    for (name, value) in [
        ("protocol.ext.allow", "always"),
        (&replacement, &fixture.address()),
    ] {
        git(&fixture.mirror(), &["config", name, value]);
    }
    let message = not_fetched(commit(&mirrors, &fixture.source("trunk")).await);
    assert!(message.contains("'ext' not allowed"), "{message}");
    assert!(!made.exists());
}

/// A mirror takes long to download, so only damage is a reason to remove it.
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_mirror_that_cannot_be_read_now_is_kept() {
    let fixture = Fixture::new();
    let (mirrors, _) = fixture.logged_mirrors();
    commit(&mirrors, &fixture.source("trunk"))
        .await
        .expect("exists");
    let program = fixture.dir.path().join("bin/git");
    let script = fs::read_to_string(&program).expect("reads");
    let failure = "case \"$*\" in *for-each-ref*) echo 'fatal: unable to create thread' >&2; exit 128;; esac\n";
    fs::write(&program, script.replacen("\n", &format!("\n{failure}"), 1)).expect("writes");
    let kept = fixture.mirror().join("kept");
    fs::write(&kept, "").expect("writes");
    for _ in 0..2 {
        match commit(&mirrors, &fixture.source("trunk")).await {
            Err(NixError::Unavailable { problem, detail }) => {
                assert!(problem.contains("cannot be read"), "{problem}");
                assert!(detail.contains("unable to create thread"), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
    fs::write(&program, script).expect("writes");
    commit(&mirrors, &fixture.source("trunk"))
        .await
        .expect("exists");
    assert!(kept.exists());
}

/// Whoever pushes a secret by mistake takes the commit back.
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn a_commit_that_no_branch_contains_any_more_is_refused_after_a_restart() {
    let fixture = Fixture::new();
    let removed = fixture.commit_of("trunk");
    commit(&fixture.mirrors(), &fixture.source(&removed))
        .await
        .expect("exists");
    fixture.git(&["tag", "-d", "v2"]);
    fixture.git(&["reset", "-q", "--hard", "HEAD^"]);
    let restarted = fixture.mirrors();
    unknown(commit(&restarted, &fixture.source(&removed)).await);
}

/// Clients may invent commits.
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn few_unknown_commits_are_fetched_at_once() {
    let fixture = Fixture::new();
    let any = Mirrors::new(MirrorOptions {
        any_commit: true,
        ..fixture.options()
    });
    commit(&any, &fixture.source("trunk"))
        .await
        .expect("exists");
    let (any, fixture) = (&any, &fixture);
    let requests =
        (0..12).map(|n| async move { commit(any, &fixture.source(&format!("{n:040x}"))).await });
    let results = tokio_join(requests).await;
    let is_busy = |result: &&Result<String, NixError>| matches!(result, Err(NixError::Unavailable { problem, .. }) if problem.contains("too many"));
    let busy = results.iter().filter(is_busy).count();
    assert!((1..=8).contains(&busy), "{results:?}");
}

/// A server of the files of a repository, as git's "dumb" protocol wants them, for one user.
fn serve(files: PathBuf, authorization: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(&stream, &files, authorization);
        }
    });
    address.to_string()
}

fn answer(mut stream: &TcpStream, files: &Path, authorization: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut allowed = false;
    for line in lines {
        let line = line?;
        allowed |= line == format!("Authorization: Basic {authorization}");
        if line.is_empty() {
            break;
        }
    }
    let path = request.split([' ', '?']).nth(1).unwrap_or("/");
    let found = fs::read(files.join(path.trim_start_matches('/')));
    let (status, body) = match (allowed, found) {
        (false, _) => (
            "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"",
            Vec::new(),
        ),
        (true, Ok(body)) => ("200 OK", body),
        (true, Err(_)) => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}

/// Other users see the arguments of commands, and of those that git starts.
#[tokio::test]
#[ignore = "needs git: run make test"]
async fn credentials_reach_no_argument_and_no_message() {
    let fixture = Fixture::new();
    fixture.git(&["update-server-info"]);
    // me:p@ss/word
    let server = serve(fixture.repository.join(".git"), "bWU6cEBzcy93b3Jk");
    let trace = fixture.dir.path().join("trace");
    let mirrors = || {
        Mirrors::new(MirrorOptions {
            env: ChildEnvironment::inherited(&[])
                .with("GIT_TRACE", &trace)
                .with("GIT_CONFIG_COUNT", "1")
                .with("GIT_CONFIG_KEY_0", "http.userAgent")
                .with("GIT_CONFIG_VALUE_0", "test")
                .with("GIT_TERMINAL_PROMPT", "0"),
            ..fixture.options()
        })
    };
    let address = format!("http://me:p%40ss%2Fword@{server}/");
    let log = BuildLog::default();
    let resolved = mirrors().resolve(&source(&address, "trunk"), &log).await;
    let resolved = resolved.expect("may be read");
    assert_eq!(resolved.revision, Some(fixture.commit_of("trunk")));
    let url = serde_json::from_str::<GitArguments>(&resolved.src_args)
        .expect("JSON")
        .url;
    assert_eq!(url, address, "the key of an image does not change");
    let provided = mirrors().provide(&resolved, &log).await.expect("is there");
    let provided = provided.expect("a repository");

    let wrong = format!("http://me:hunter2@{server}/");
    let elsewhere = Mirrors::new(MirrorOptions {
        mirrors: fixture.dir.path().join("elsewhere"),
        ..mirrors().options
    });
    let message = not_fetched(commit(&elsewhere, &source(&wrong, "trunk")).await);
    assert!(message.contains(&server), "{message}");

    let trace = fs::read_to_string(&trace).expect("a trace");
    assert!(
        trace.contains(&format!("remote-http http://{server}/")),
        "{trace}"
    );
    let everything = format!(
        "{trace}{message}{}{}{:?}",
        provided.src_args,
        log.text(),
        elsewhere
    );
    for secret in ["p@ss", "p%40ss", "hunter2"] {
        assert!(!everything.contains(secret), "{secret} is in {everything}");
    }
}
