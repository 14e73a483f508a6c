//! Signals against the real program: an orderly end, and a quick one.

use nixery_e2e::command::{run, with_in_environment};
use nixery_e2e::{NixCalls, Registry, RegistryOptions, http, program, wait_until};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs Nix: run make test"]
fn sigterm_lets_a_running_build_end() {
    let folder = tempfile::tempdir().unwrap();
    let calls = NixCalls::new();
    let options = RegistryOptions::salted(&folder).env("PATH", &calls.path());
    let mut registry = Registry::start(options);
    let url = registry.manifest_url("slow-5");
    let before = calls.count("--realise");
    let client = std::thread::spawn(move || http::get_following(&url));
    wait_until("the build runs", || calls.count("--realise") > before);

    registry.signal("TERM");
    let status = registry.ended(Duration::from_secs(60));
    assert_eq!(status.code(), Some(0), "{status}\n{}", registry.log());
    let answer = client.join().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    registry.verify();

    // What was built is there for the next one.
    registry.kill_and_restart();
    let built = calls.count("--realise");
    let again = registry.manifest("slow-5");
    assert_eq!((again.status, again.body), (200, answer.body));
    assert_eq!(calls.count("--realise"), built, "nothing is built again");
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_second_signal_ends_at_once_and_leaves_no_builder() {
    let folder = tempfile::tempdir().unwrap();
    let mut registry = Registry::start(RegistryOptions::salted(&folder));
    let salt = std::fs::read(folder.path().join("test-set/salt")).unwrap();
    let url = registry.manifest_url("hangs");
    let client = std::thread::spawn(move || http::try_get(&url));
    let builders = || with_in_environment(&salt);
    wait_until("the builder runs", || !builders().is_empty());

    registry.signal("TERM");
    wait_until("it is stopping", || registry.logged("stopping") == 1);
    let asked = Instant::now();
    registry.signal("INT");
    let status = registry.ended(Duration::from_secs(60));
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(130), "{status}\n{}", registry.log());
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(client.join().unwrap().is_none(), "it got an answer");
    // What is cut off is logged as well, and that is after everything else.
    assert_eq!(registry.logged("aborted"), 1, "{}", registry.log());
    wait_until("its builder is gone", || builders().is_empty());
    registry.verify();
}

#[test]
#[ignore = "needs Nix: run make test"]
fn an_interrupted_command_leaves_no_builder() {
    let folder = tempfile::tempdir().unwrap();
    RegistryOptions::salted(&folder);
    let salt = std::fs::read(folder.path().join("test-set/salt")).unwrap();
    let one = folder.path().join("one");
    std::fs::create_dir(&one).unwrap();
    let code = "{ ... }@arguments: { inherit (import ../test-set arguments) hangs; }";
    std::fs::write(one.join("default.nix"), code).unwrap();
    let builders = || with_in_environment(&salt);
    let commands: [&[&str]; 3] = [
        &["layers", "compare", "hangs"],
        &["lab", "plan", "build", "--out", "plan", "--attrs", "hangs"],
        &["lab", "plan", "build", "--out", "plan", "--all"],
    ];
    for arguments in commands {
        // With --attrs come `cacert` and `iana-etc`, as in every image: the set of one package has
        // neither.
        let set = if arguments.contains(&"--all") {
            "one"
        } else {
            "test-set"
        };
        let mut command = Command::new(program("nixery"))
            .args(arguments)
            .env("NIXERY_PKGS_PATH", folder.path().join(set))
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the builder runs", || !builders().is_empty());
        run(Command::new("kill").args(["-INT", &command.id().to_string()])).success();
        let status = command.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{arguments:?}: {status}");
        wait_until("its builder is gone", || builders().is_empty());
        assert!(!folder.path().join("plan").exists());
    }
}
