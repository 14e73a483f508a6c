//! Problems with Nix that are found before anything is built.

use nixery_nix::{Finding, Nix, NixCli, NixCliConfig};
use rstest::rstest;

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn preflight_finds_nothing_where_nix_works() {
    let dir = tempfile::tempdir().expect("temp dir");
    let nix = NixCli::new(NixCliConfig::new(dir.path())).expect("spool is usable");
    assert_eq!(nix.preflight().await, []);
}

/// Package sets in git repositories need git, and others do not.
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn preflight_checks_git_for_a_git_source() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).expect("mkdir");
    let path = std::env::var_os("PATH").expect("is set");
    for program in ["nix", "nix-store", "nix-instantiate"] {
        let mut files = std::env::split_paths(&path).map(|folder| folder.join(program));
        let file = files.find(|file| file.exists()).expect("Nix is installed");
        std::os::unix::fs::symlink(file, bin.join(program)).expect("links");
    }
    for needs_git in [false, true] {
        let mut config = crate::setup::nix_config(&dir.path().join("spool"));
        config
            .env
            .push(("PATH".to_owned(), bin.display().to_string()));
        config.needs_git = needs_git;
        let nix = NixCli::new(config).expect("spool is usable");
        let findings = nix.preflight().await;
        match &findings[..] {
            [] if !needs_git => {}
            [finding] if needs_git && finding.fatal => {
                assert!(
                    finding.problem.contains("git is not installed"),
                    "{finding:?}"
                );
                assert!(
                    finding.remedy.contains("apt-get install git"),
                    "{finding:?}"
                );
            }
            _ => panic!("{needs_git}: {findings:?}"),
        }
    }
}

#[rstest]
#[case::no_nix(("PATH", "/nonexistent"), "Nix is not installed", "apt-get install nix-bin")]
#[case::no_daemon(("NIX_REMOTE", "daemon"), "cannot connect to socket", "nix-daemon")]
#[case::no_group(("NIX_CONFIG", "build-users-group = nonexistent"), "'nonexistent'", "build-users-group =")]
#[case::no_access(("NIX_STATE_DIR", "/proc/nothing"), "creating directory", "make /nix writable")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn preflight_says_what_is_wrong_and_what_to_do(
    #[case] env: (&str, &str),
    #[case] problem: &str,
    #[case] remedy: &str,
) {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut config = NixCliConfig::new(dir.path());
    config.env.push((env.0.to_owned(), env.1.to_owned()));
    let findings = NixCli::new(config)
        .expect("spool is usable")
        .preflight()
        .await;
    let [
        Finding {
            problem: found,
            remedy: advice,
            fatal: true,
            ..
        },
    ] = &findings[..]
    else {
        panic!("{findings:?}")
    };
    assert!(
        found.contains(problem) && advice.contains(remedy),
        "{findings:?}"
    );
}
