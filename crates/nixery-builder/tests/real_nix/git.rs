//! Package sets in git repositories, and what their code may read.

use std::path::Path;
use std::sync::Arc;

use nixery_builder::{BuildError, Image, Phase};
use nixery_core::{PackageSource, Tag};
use nixery_nix::{Nix, NixCli, NixCliConfig, PackageError};
use rstest::rstest;

use crate::setup::{Setup, nix_config, paths};

/// Packages that look around on the server.
const PRYING: &str = r#"
  readsenvironment = sh "environment-${builtins.getEnv "NIXERY_TEST_SECRET"}-" "mkdir $out";
  readsfiles = sh "file-${builtins.substring 0 0 (builtins.readFile "@secret@")}" "mkdir $out";
  readslinks = sh "link-${builtins.substring 0 0 (builtins.readFile ./link)}" "mkdir $out";
  readsfolders = sh "folder" "echo ${builtins.path { path = builtins.dirOf "@secret@"; name = "stolen"; }} > $out";
  readsrepositories = sh "repository" "echo ${builtins.fetchGit { url = "file://@private@"; ref = "main"; }} > $out";
  readsurls = sh "url" "echo ${builtins.fetchurl "file://@secret@"} > $out";
  readsitself = sh "itself" "echo ${./default.nix} ${builtins.readFile ./other.nix} > $out";
}
"#;

/// Runs git in `dir` and returns what it prints.
fn git(dir: &Path, args: &[&str]) -> String {
    let git = std::process::Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("git runs");
    assert!(
        git.status.success(),
        "{}",
        String::from_utf8_lossy(&git.stderr)
    );
    String::from_utf8(git.stdout)
        .expect("UTF-8")
        .trim()
        .to_owned()
}

/// Makes a repository of the package set.
pub(crate) fn repository(set: &Path) -> PackageSource {
    git(set, &["init", "-q", "--initial-branch=trunk"]);
    git(set, &["add", "."]);
    git(set, &["commit", "-q", "-m", "First"]);
    PackageSource::git(&format!("file://{}", set.display())).expect("valid")
}

/// Adds packages to the set that read what is not theirs.
fn pry(set: &Path) {
    let dir = set.parent().expect("a folder");
    let (secrets, private) = (dir.join("secrets"), dir.join("private"));
    std::fs::create_dir(&secrets).expect("mkdir");
    let secret = secrets.join("secret");
    std::fs::write(&secret, "secret").expect("writes");
    std::fs::create_dir(&private).expect("mkdir");
    git(&private, &["init", "-q", "--initial-branch=main"]);
    git(
        &private,
        &["commit", "-q", "--allow-empty", "-m", "Private"],
    );
    std::os::unix::fs::symlink(&secret, set.join("link")).expect("links");
    std::fs::write(set.join("other.nix"), "{ }").expect("writes");
    let file = set.join("default.nix");
    let text = std::fs::read_to_string(&file).expect("reads");
    let text = text.trim_end().strip_suffix('}').expect("a set").to_owned();
    let prying = PRYING
        .replace("@secret@", &secret.to_string_lossy())
        .replace("@private@", &private.to_string_lossy());
    std::fs::write(&file, text + &prying).expect("writes");
}

async fn built(setup: &Setup, name: &str, tag: &str) -> Arc<Image> {
    let handle = setup.request_at(name, tag);
    let image = handle.wait().await;
    image.unwrap_or_else(|error| panic!("{tag}: {error}\n{}", handle.log().text()))
}

#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn tags_are_branches_and_commits_of_a_git_source() {
    let setup = Setup::of(|_| {}, repository).await;
    let set = setup.dir.path().join("set");
    let first = git(&set, &["rev-parse", "HEAD"]);
    let file = set.join("default.nix");
    let text = std::fs::read_to_string(&file).expect("reads");
    std::fs::write(&file, text.replace("foo-1.0", "foo-2.0")).expect("writes");
    git(&set, &["commit", "-q", "-a", "-m", "Second"]);
    let second = git(&set, &["rev-parse", "HEAD"]);

    for (tag, commit, is_new) in [
        ("latest", &second, true),
        ("trunk", &second, true),
        (first.as_str(), &first, false),
    ] {
        let image = built(&setup, "foo", tag).await;
        assert_eq!(paths(&image).contains(&"foo-2.0"), is_new, "{tag}");
        assert_eq!(image.stats.immutable, tag == first, "{tag}");
        let manifest = String::from_utf8(image.oci.bytes.to_vec()).expect("UTF-8");
        assert!(manifest.contains(commit.as_str()), "{tag}: {manifest}");
    }
    // Known by its commit: nothing is evaluated.
    let again = built(&setup, "foo", "trunk").await;
    assert!(again.stats.from_cache);
    let evaluated = |(phase, _): &(Phase, _)| *phase == Phase::Evaluate;
    assert!(!again.stats.phases.iter().any(evaluated));
    let same = built(&setup, "foo", &second).await;
    assert_eq!(same.oci, built(&setup, "foo", "latest").await.oci);
}

/// Whoever proposes a change makes a commit that the host serves.
#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn a_proposed_change_is_not_built() {
    let setup = Setup::of(|_| {}, repository).await;
    let set = setup.dir.path().join("set");
    git(&set, &["checkout", "-q", "--detach"]);
    pry(&set);
    git(&set, &["add", "."]);
    git(&set, &["commit", "-q", "-m", "Evil"]);
    git(&set, &["update-ref", "refs/pull/1/head", "HEAD"]);
    let evil = git(&set, &["rev-parse", "HEAD"]);
    git(&set, &["checkout", "-q", "trunk"]);
    // Few digits may be a version.
    for tag in [&evil, "no-such-branch", "HEAD", "FETCH_HEAD", &evil[..39]] {
        let handle = setup.request_at("foo", tag);
        match &*handle.wait().await.expect_err("is refused") {
            error @ BuildError::Package(PackageError::UnknownRevision { .. }) => {
                let message = error.to_string();
                assert!(
                    message.contains(tag) && message.contains("`trunk`"),
                    "{message}"
                );
                assert!(error.slug() == "unknown-revision", "{}", error.slug());
            }
            error => panic!("{tag}: {error:?}"),
        }
    }
    built(&setup, "foo", "trunk").await;

    let any = Setup::of(
        |nix| nix.any_commit = true,
        |_| PackageSource::git(&format!("file://{}", set.display())).expect("valid"),
    );
    built(&any.await, "foo", &evil).await;
}

#[derive(Clone, Copy)]
enum Source {
    Git,
    Path,
}

/// With the source of this kind, the setting, and lines of `nix.conf`.
async fn prying(source: Source, restrict_eval: Option<bool>, nix_conf: &str) -> Setup {
    let change = |nix: &mut NixCliConfig| {
        nix.restrict_eval = restrict_eval;
        for (name, value) in &mut nix.env {
            if name == "NIX_CONFIG" {
                value.push_str(nix_conf);
            }
        }
        let secret = ("NIXERY_TEST_SECRET".to_owned(), "hunter2".to_owned());
        nix.env.push(secret);
    };
    Setup::of(change, |set| {
        pry(set);
        match source {
            Source::Git => repository(set),
            Source::Path => PackageSource::path(set).expect("valid"),
        }
    })
    .await
}

#[rstest]
#[case::git(Source::Git, None, "")]
#[case::git_by_setting(Source::Git, Some(true), "")]
#[case::path_by_setting(Source::Path, Some(true), "")]
#[case::path_by_nix_conf(Source::Path, None, "\nrestrict-eval = true")]
#[case::git_by_nix_conf(Source::Git, Some(false), "\nrestrict-eval = true")]
#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn in_restricted_mode_a_set_reads_only_itself(
    #[case] source: Source,
    #[case] restrict_eval: Option<bool>,
    #[case] nix_conf: &str,
) {
    let setup = prying(source, restrict_eval, nix_conf).await;
    built(&setup, "foo", "latest").await;
    built(&setup, "readsitself", "latest").await;
    let image = built(&setup, "readsenvironment", "latest").await;
    assert!(
        paths(&image).contains(&"environment--"),
        "{:?}",
        paths(&image)
    );
    for name in [
        "readsfiles",
        "readslinks",
        "readsfolders",
        "readsrepositories",
        "readsurls",
    ] {
        match &*setup.fail(name).await {
            BuildError::Package(PackageError::Evaluation {
                package: Some(package),
                message,
            }) => {
                assert_eq!(package, name);
                assert!(
                    message.contains("is forbidden in restricted mode"),
                    "{message}"
                );
                assert!(message.contains("Fix: "), "{message}");
            }
            error => panic!("{name}: {error:?}"),
        }
    }
}

/// Nix compares URLs as text, and curl and git resolve `..` in them.
#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn in_restricted_mode_a_set_reads_nothing_above_its_mirror_or_itself() {
    let setup = prying(Source::Git, None, "").await;
    built(&setup, "foo", "latest").await;
    let (dir, set) = (setup.dir.path(), setup.dir.path().join("set"));
    let mut mirrors = std::fs::read_dir(dir.join("spool/git")).expect("a folder");
    let mirror = mirrors.next().expect("a mirror").expect("an entry").path();
    let (mirror, dir) = (mirror.display(), dir.display());
    let up = "../".repeat(32);
    let packages = format!(
        r#"
  urlabovemirror = sh "x" "echo ${{builtins.fetchurl "file://{mirror}/{up}{dir}/secrets/secret"}} > $out";
  urlinmirror = sh "x" "echo ${{builtins.fetchurl "file://{mirror}/repository/.git/HEAD"}} > $out";
  urlaboveset = sh "x" "echo ${{builtins.fetchurl "file://${{toString ./.}}/{up}{dir}/secrets/secret"}} > $out";
  tarballabove = sh "x" "echo ${{builtins.fetchTarball "file://{mirror}/{up}{dir}/secrets/secret"}} > $out";
  gitabove = sh "x" "echo ${{builtins.fetchGit {{ url = "file://{mirror}/{up}{dir}/private"; ref = "main"; }}}} > $out";
  gitaboveset = sh "x" "echo ${{builtins.fetchGit {{ url = "file://${{toString ./.}}/{up}{dir}/private"; ref = "main"; }}}} > $out";
  owntarball = sh "x" "echo ${{builtins.fetchTarball "file://${{toString ./.}}/own.tar.gz"}} > $out";
  ownurl = sh "x" "echo ${{builtins.fetchurl "file://${{toString ./other.nix}}"}} > $out";
  ownrepository = sh "x" "echo ${{builtins.fetchGit {{ url = "file://${{toString ./.}}/own"; ref = "trunk"; }}}} > $out";
  channelabove = sh "x" "echo ${{builtins.fetchTarball "https://github.com/NixOS/nixpkgs/archive/../../x.tar.gz"}} > $out";
}}
"#
    );
    let file = set.join("default.nix");
    let text = std::fs::read_to_string(&file).expect("reads");
    let text = text.trim_end().strip_suffix('}').expect("a set").to_owned();
    std::fs::write(&file, text + &packages).expect("writes");
    std::fs::write(set.join("own.tar.gz"), "an archive").expect("writes");
    git(&set, &["clone", "-q", "--bare", ".", "own"]);
    git(&set, &["add", "."]);
    git(&set, &["commit", "-q", "-m", "Second"]);
    for name in [
        "urlabovemirror",
        "urlinmirror",
        "urlaboveset",
        "tarballabove",
        "gitabove",
        "gitaboveset",
        "channelabove",
    ] {
        let error = setup.fail(name).await.to_string();
        assert!(
            error.contains("is forbidden in restricted mode"),
            "{name}: {error}"
        );
    }
    // An archive may have names that lead out of it.
    for name in ["ownurl", "owntarball", "ownrepository"] {
        let error = setup.fail(name).await.to_string();
        assert!(
            error.contains("fetching is forbidden in restricted mode"),
            "{name}: {error}"
        );
    }
}

#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn in_restricted_mode_a_set_fetches_what_nix_conf_allows() {
    let setup = prying(Source::Git, None, "\nallowed-uris = file:///").await;
    built(&setup, "readsurls", "latest").await;
    let error = setup.fail("readsfiles").await.to_string();
    assert!(error.contains("is forbidden in restricted mode"), "{error}");
}

/// Nix compares `file://` URLs before they are decoded.
#[rstest]
#[case::folder("%2e%2e/%2e%2e/%2e%2e@secret@", "%2e%2e/%2e%2e/%2e%2e@secret@")]
#[case::query("link?", "link?")]
#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn in_restricted_mode_a_set_has_no_names_that_are_others_in_urls(
    #[case] name: &str,
    #[case] url: &str,
) {
    let setup = |restrict_eval: Option<bool>, nix_conf: &'static str| async move {
        let change = |nix: &mut NixCliConfig| {
            nix.restrict_eval = restrict_eval;
            nix.env[0].1.push_str(nix_conf);
        };
        Setup::of(change, |set| {
            let secret = set.parent().expect("a folder").join("secrets/secret");
            let secret = secret.to_string_lossy();
            let file = set.join("default.nix");
            let text = std::fs::read_to_string(&file).expect("reads");
            let text = text.trim_end().strip_suffix('}').expect("a set").to_owned();
            let url = url.replace("@secret@", &secret);
            let package = format!(
                r#"  decodes = sh (builtins.readFile (builtins.fetchurl "file://${{toString ./.}}/{url}")) "mkdir $out"; }}"#
            );
            std::fs::write(&file, text + &package).expect("writes");
            pry(set);
            let decoy = set.join(name.replace("@secret@", &secret));
            std::fs::create_dir_all(decoy.parent().expect("a folder")).expect("mkdir");
            std::fs::write(decoy, "decoy").expect("writes");
            repository(set)
        })
        .await
    };
    let error = setup(None, "").await.fail("decodes").await.to_string();
    assert!(error.contains("means another file in a URL"), "{error}");
    // This Nix does read the other file.
    let unchecked = setup(Some(false), "\nrestrict-eval = true").await;
    let image = built(&unchecked, "decodes", "latest").await;
    assert!(paths(&image).contains(&"secret"), "{:?}", paths(&image));
}

/// Neither the search path of the server's user nor the spool folder is part of a set.
#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn in_restricted_mode_a_set_reads_no_search_path_and_no_spool() {
    let packages = r#"
  searches = sh "x-${builtins.substring 0 0 (builtins.readFile <secrets/secret>)}" "mkdir $out";
  readsspool = sh "x-${builtins.substring 0 0 (builtins.readFile <nixery-code/../lock>)}" "mkdir $out";
}
"#;
    let setup = |restrict_eval: Option<bool>| async move {
        let change = |nix: &mut NixCliConfig| {
            let dir = nix.spool_dir.parent().expect("a folder");
            let path = format!("secrets={}", dir.join("secrets").display());
            nix.env.push(("NIX_PATH".to_owned(), path));
            nix.restrict_eval = restrict_eval;
        };
        Setup::of(change, |set| {
            let file = set.join("default.nix");
            let text = std::fs::read_to_string(&file).expect("reads");
            let text = text.trim_end().strip_suffix('}').expect("a set").to_owned();
            std::fs::write(&file, text + packages).expect("writes");
            pry(set);
            repository(set)
        })
        .await
    };
    let free = setup(Some(false)).await;
    let restricted = setup(None).await;
    for (name, refusal) in [
        ("searches", "was not found in the Nix search path"),
        ("readsspool", "is forbidden in restricted mode"),
    ] {
        built(&free, name, "latest").await;
        let error = restricted.fail(name).await.to_string();
        assert!(error.contains(refusal), "{name}: {error}");
    }
}

/// The commit does not change, so that its files are fetched again only if they are gone.
#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn a_set_that_was_collected_is_fetched_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let set = dir.path().join("set");
    std::fs::create_dir(&set).expect("mkdir");
    let nonce = dir.path().display();
    let package = r#"derivation { name = "x"; builder = "/bin/sh"; system = "x86_64-linux"; }"#;
    let text = format!("# {nonce}\n{{ x = {package} // {{ name = toString ./.; }}; }}");
    std::fs::write(set.join("default.nix"), text).expect("writes");
    let source = repository(&set);
    let nix = NixCli::new(nix_config(&dir.path().join("spool"))).expect("spool is usable");
    let log = nixery_nix::BuildLog::default();
    let source = nix.resolve(&source.resolve(&Tag::latest()), &log).await;
    let request = nixery_nix::EvaluationRequest::new(
        source.expect("exists"),
        vec!["x".to_owned()],
        nixery_core::Architecture::default(),
    );
    let first = nix.evaluate(&request, &log).await.expect("evaluates");
    assert_eq!(nix.evaluate(&request, &log).await.expect("again"), first);

    let text = std::fs::read_to_string(set.join("default.nix")).expect("reads");
    let ours = |path: &std::path::PathBuf| {
        let file = std::fs::read_to_string(path.join("default.nix"));
        path.to_string_lossy().ends_with("-package-set") && file.is_ok_and(|found| found == text)
    };
    let entries = std::fs::read_dir("/nix/store").expect("a store").flatten();
    let fetched = entries.map(|entry| entry.path()).find(ours);
    let fetched = fetched.expect("it is in the store");
    let deleted = std::process::Command::new("nix-store")
        .arg("--delete")
        .arg(&fetched)
        .output()
        .expect("runs");
    assert!(deleted.status.success() && !fetched.exists(), "{deleted:?}");
    assert_eq!(nix.evaluate(&request, &log).await.expect("again"), first);
    assert!(fetched.exists(), "at the same path");
}

#[rstest]
#[case::path(Source::Path, None)]
#[case::git(Source::Git, Some(false))]
#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn otherwise_a_set_reads_what_the_server_reads(
    #[case] source: Source,
    #[case] restrict_eval: Option<bool>,
) {
    let setup = prying(source, restrict_eval, "").await;
    let image = built(&setup, "readsenvironment", "latest").await;
    assert!(paths(&image).contains(&"environment-hunter2-"));
    for name in ["readsfiles", "readsfolders", "readsrepositories"] {
        built(&setup, name, "latest").await;
    }
}

/// What is ready must build, and the other way round.
#[rstest]
#[case::by_setting(Some(true), "")]
#[case::by_nix_conf(None, "\nrestrict-eval = true")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn the_check_at_start_evaluates_as_an_image_is_evaluated(
    #[case] restrict_eval: Option<bool>,
    #[case] nix_conf: &str,
) {
    let dir = tempfile::tempdir().expect("temp dir");
    let config = |spool: &Path| {
        let mut config = nix_config(spool);
        config.restrict_eval = restrict_eval;
        config.env[0].1.push_str(nix_conf);
        config
    };
    let nix = NixCli::new(config(dir.path())).expect("spool is usable");
    assert_eq!(nix.preflight().await, []);

    // Nix code that reads outside of its folder works in no restricted evaluation.
    let code = dir.path().join("code");
    std::fs::create_dir(&code).expect("mkdir");
    let outside = dir.path().join("outside.nix");
    std::fs::write(&outside, "{ request }: null").expect("writes");
    let text = format!("import {}", outside.display());
    std::fs::write(code.join("prepare-image.nix"), text).expect("writes");
    let mut config = config(dir.path());
    config.nix_dir = Some(code);
    let findings = NixCli::new(config)
        .expect("spool is usable")
        .preflight()
        .await;
    let [finding] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert!(
        finding.fatal && finding.problem.contains("restricted mode"),
        "{finding:?}"
    );
}

/// A channel is fetched from the one place that it may be fetched from.
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn a_channel_may_be_fetched_in_restricted_mode() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut config = nix_config(dir.path());
    config.restrict_eval = Some(true);
    // No proxy listens there, so nothing is downloaded.
    for name in ["http_proxy", "https_proxy"] {
        let proxy = (name.to_owned(), "http://127.0.0.1:1".to_owned());
        config.env.push(proxy);
    }
    config.env[0].1.push_str("\ndownload-attempts = 1");
    let nix = NixCli::new(config).expect("spool is usable");
    let source = PackageSource::channel("nixos-26.05").expect("valid");
    let request = nixery_nix::EvaluationRequest::new(
        source.resolve(&Tag::latest()),
        vec!["hello".to_owned()],
        nixery_core::Architecture::default(),
    );
    let error = nix
        .evaluate(&request, &nixery_nix::BuildLog::default())
        .await;
    let error = error.expect_err("there is no network").to_string();
    assert!(error.contains("unable to download"), "{error}");
}
