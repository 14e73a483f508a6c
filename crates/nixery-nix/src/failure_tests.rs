//! The meaning of real output of Nix 2.8 and 2.26, captured in `tests/data`, and of the wording of
//! 2.30 and later.

use std::path::Path;

use rstest::rstest;

use super::*;
use crate::build_log::BuildLog;

const VERSIONS: [&str; 2] = ["nix-2.8", "nix-2.26"];

fn with_captured<T>(version: &str, name: &str, test: impl FnOnce(&NixLog<'_>) -> T) -> T {
    with_all_captured(version, &[name], test)
}

/// Passes several captured logs to the test as if one run of Nix had written them in this order.
fn with_all_captured<T>(version: &str, names: &[&str], test: impl FnOnce(&NixLog<'_>) -> T) -> T {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let read = |name: &&str| {
        let path = data.join(version).join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let bytes = names.iter().map(read).collect::<Vec<_>>().join(&b'\n');
    let out = BuildLog::default();
    let mut log = NixLog::new(&out);
    bytes
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .for_each(|line| log.line(line));
    test(&log)
}

#[rstest]
#[case("broken", "broken-1.0", "builder-exited-1")]
#[case::dependency_failed("dep", "broken-1.0", "builder-exited-1")]
#[case("hash", "hash-1.0", "hash-mismatch")]
#[case("noout", "noout-1.0", "builder-made-no-output")]
#[case("nobuilder", "nobuilder-1.0", "builder-exited-1")]
#[case("foreign", "foreign-1.0", "needs-aarch64-darwin")]
#[case("killed", "killed-1.0", "builder-killed-by-signal-9")]
#[case("enospc", "enospc-1.0", "disk-full")]
#[case::forged_message("chatty", "chatty-1.0", "builder-exited-3")]
#[case("slow", "slow-1.0", "timed-out")]
fn failed_builds(#[case] name: &str, #[case] derivation: &str, #[case] reason: &str) {
    for version in VERSIONS {
        let cause = with_captured(version, &format!("realise-{name}.log"), realise_failure);
        let RealiseFailure::Derivation {
            derivation: path,
            reason: found,
        } = cause
        else {
            panic!("{version}: {cause:?}")
        };
        assert!(path.starts_with("/nix/store/"), "{version}: {path}");
        assert!(
            path.ends_with(&format!("-{derivation}.drv")),
            "{version}: {path}"
        );
        assert_eq!(found, reason, "{version}");
    }
}

/// The builder of `liar` writes messages of Nix: that the builder of `victim` failed, that the disk
/// is full, and that Nix was interrupted. With a daemon all errors of builds look like these.
#[rstest]
#[case("realise-liar.log")]
#[case::through_a_daemon("realise-liar-daemon.log")]
fn a_builder_cannot_blame_another_one(#[case] log: &str) {
    for version in VERSIONS {
        with_captured(version, log, |log| {
            let RealiseFailure::Derivation { derivation, reason } = realise_failure(log) else {
                panic!("{version}: {log:?}")
            };
            assert!(
                derivation.ends_with("-liar-1.0.drv"),
                "{version}: {derivation}"
            );
            assert_eq!(reason, "builder-exited-1", "{version}");
            assert!(!is_disk_full(log), "{version}");
            assert_eq!(killed(&exited(100 << 8), log), None, "{version}");
            let text = log.detail();
            assert!(
                text.contains("victim-1.0.drv' failed with exit code 9"),
                "{text}"
            );
        });
    }
}

/// A command that ended with a wait status: a signal, or an exit code shifted by eight bits.
fn exited(status: i32) -> Finished {
    Finished {
        status: std::os::unix::process::ExitStatusExt::from_raw(status),
        stdout: Vec::new(),
        stdout_cut: false,
        timed_out: false,
    }
}

const INTERRUPTED: &str = r#"@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"\u001b[31;1merror:\u001b[0m interrupted by the user","raw_msg":"interrupted by the user"}"#;
const NO_MEMORY: &str =
    r#"@nix {"action":"msg","level":0,"msg":"\u001b[31;1merror:\u001b[0m out of memory"}"#;
/// What evaluated code can have Nix print.
const THROWN: &str = r#"@nix {"action":"msg","level":0,"msg":"error: interrupted by the user","raw_msg":"interrupted by the user","trace":[{"column":1,"file":"/x.nix","line":1,"raw_msg":"while loading the package set"}]}"#;
const PRINTED: &str = r#"@nix {"action":"msg","level":0,"msg":"trace: interrupted by the user"}"#;
const THROWN_NO_MEMORY: &str = r#"@nix {"action":"msg","level":0,"msg":"error: out of memory","raw_msg":"out of memory","trace":[]}"#;
const OTHER_ERROR: &str = r#"@nix {"action":"msg","level":0,"msg":"error: it ran out of memory","raw_msg":"it ran out of memory"}"#;

#[rstest]
#[case::success(NO_MEMORY, 0, None)]
#[case::failure(OTHER_ERROR, 1 << 8, None)]
#[case::stopped(INTERRUPTED, 1 << 8, Some("was killed by SIGTERM, probably because something stopped it"))]
#[case::thrown_as_stopped(THROWN, 1 << 8, None)]
#[case::printed_as_stopped(PRINTED, 1 << 8, None)]
#[case::thrown_as_no_memory(THROWN_NO_MEMORY, 1 << 8, None)]
#[case::no_memory(NO_MEMORY, 1 << 8, Some("ran out of memory"))]
#[case::killed(
    "",
    9,
    Some("was killed by SIGKILL, probably because the server has too little memory")
)]
#[case::killed_in_a_wrapper("", 137 << 8, Some("was killed by SIGKILL, probably because the server has too little memory"))]
#[case::aborted(
    "",
    6,
    Some("was killed by SIGABRT, probably because of a lack of memory")
)]
#[case::unusual("", 64, Some("was killed by signal 64"))]
fn what_killed_nix_is_found(
    #[case] line: &str,
    #[case] status: i32,
    #[case] expected: Option<&str>,
) {
    let out = BuildLog::default();
    let mut log = NixLog::new(&out);
    log.line(line.as_bytes());
    assert_eq!(killed(&exited(status), &log).as_deref(), expected);
}

const NO_MEMORY_LEFT: &str = "GC Warning: Out of Memory! Heap size: 384 MiB. Returning NULL!";
const BAD_ALLOC: &str = "terminate called after throwing an instance of 'std::bad_alloc'";

#[rstest]
#[case::reported(NO_MEMORY, 1 << 8, true)]
#[case::in_a_collection(NO_MEMORY_LEFT, 6, true)]
#[case::elsewhere(BAD_ALLOC, 6, true)]
#[case::in_a_wrapper(BAD_ALLOC, 134 << 8, true)]
#[case::success(NO_MEMORY_LEFT, 0, false)]
#[case::another_reason_to_abort("", 6, false)]
#[case::killed_by_the_kernel(NO_MEMORY_LEFT, 9, false)]
#[case::thrown_by_evaluated_code(THROWN_NO_MEMORY, 1 << 8, false)]
#[case::survived(NO_MEMORY_LEFT, 1 << 8, false)]
fn a_lack_of_memory_is_distinguished_from_other_ends(
    #[case] line: &str,
    #[case] status: i32,
    #[case] expected: bool,
) {
    let out = BuildLog::default();
    let mut log = NixLog::new(&out);
    log.line(line.as_bytes());
    assert_eq!(ran_out_of_memory(&exited(status), &log), expected);
}

#[test]
fn an_evaluation_beyond_its_limit_runs_out_of_memory() {
    with_captured("nix-2.8", "evaluate-out-of-memory.log", |log| {
        assert!(ran_out_of_memory(&exited(1 << 8), log), "{log:?}");
    });
}

/// With `--keep-going` several may fail, and only the first is the cause.
#[rstest]
#[case(&["realise-broken.log"], false)]
#[case::forged_message(&["realise-chatty.log"], false)]
#[case::a_test_of_dev_full(&["realise-enospc.log"], false)]
#[case::beside_another(&["realise-broken.log", "realise-enospc.log"], false)]
#[case::two_of_three(&["realise-enospc.log", "realise-broken.log", "realise-enospc.log"], true)]
fn a_full_disk_is_found_among_other_failures(#[case] logs: &[&str], #[case] expected: bool) {
    for version in VERSIONS {
        let full = with_all_captured(version, logs, is_disk_full);
        assert_eq!(full, expected, "{version}");
    }
}

#[rstest]
#[case("writing to file: No space left on device", true)]
#[case("executing SQLite statement 'commit;': database or disk is full", true)]
#[case("getting status of '/nix/store/x': Input/output error", false)]
fn nix_itself_has_no_space(#[case] text: &str, #[case] expected: bool) {
    let out = BuildLog::default();
    let mut log = NixLog::new(&out);
    let mut say = |text: &str| {
        let event = serde_json::json!({"action": "msg", "level": 0, "msg": text, "raw_msg": text});
        log.line(format!("@nix {event}").as_bytes());
    };
    // More than are kept.
    (0..1000).for_each(|number| say(&format!("error {number}")));
    say(text);
    say("build of '/nix/store/x.drv' failed");
    assert_eq!(is_disk_full(&log), expected);
}

#[rstest]
fn the_tail_is_that_of_the_failed_builder() {
    for version in VERSIONS {
        let tail = with_captured(version, "realise-dep.log", |log| {
            match realise_failure(log) {
                RealiseFailure::Derivation { derivation, .. } => log.builder_tail(&derivation),
                cause => panic!("{cause:?}"),
            }
        });
        let expected: Vec<_> = (6..=25).map(|n| format!("line {n}")).collect();
        assert_eq!(tail, expected, "{version}");
        let tail = with_captured(version, "realise-chatty.log", |log| {
            match realise_failure(log) {
                RealiseFailure::Derivation { derivation, .. } => log.builder_tail(&derivation),
                cause => panic!("{cause:?}"),
            }
        });
        assert_eq!(
            tail[0], "ab\u{fffd}\u{fffd}cred",
            "{version}: no NUL, no colour"
        );
    }
}

#[rstest]
#[case::to_2_26("cannot build missing derivation '/nix/store/x.drv'")]
#[case::from_2_30("Cannot build missing derivation '/nix/store/x.drv'")]
fn a_missing_derivation_can_be_tried_again(#[case] text: &str) {
    assert!(obstacle(text).is_some_and(|obstacle| obstacle.problem.ends_with("try again")));
    assert_eq!(failed_derivation(text), None);
}

#[rstest]
#[case("realise-no-daemon.log", "the Nix daemon cannot be reached")]
#[case("realise-no-build-group.log", "Nix's build group does not exist")]
#[case(
    "realise-missing-drv.log",
    "a derivation was garbage-collected before it was built. Fix: try again"
)]
fn nix_that_cannot_work(#[case] file: &str, #[case] problem: &str) {
    for version in VERSIONS {
        let cause = with_captured(version, file, realise_failure);
        assert_eq!(
            cause,
            RealiseFailure::Nix {
                problem: problem.to_owned()
            },
            "{version}"
        );
    }
}

#[rstest]
#[case(
    "evalfail",
    Some("evalfail"),
    "this package is marked broken, refusing"
)]
#[case("undefined", Some("undefined"), "undefined variable 'nonexistent'")]
#[case(
    "unfree",
    Some("unfree"),
    "Package ‘x’ in …/x.nix:3 has an unfree license (‘unfree’), refusing to evaluate."
)]
#[case(
    "no-default",
    None,
    "the package set (path …/empty) has no default.nix"
)]
#[case("syntax", None, "syntax error, unexpected ';'")]
fn failed_evaluations(#[case] name: &str, #[case] culprit: Option<&str>, #[case] text: &str) {
    let packages = ["hello".to_owned(), name.to_owned()];
    for version in VERSIONS {
        let error = with_captured(version, &format!("evaluate-{name}.log"), |log| {
            evaluation_error(log, &packages)
        });
        match error {
            NixError::Package(PackageError::Evaluation { package, message }) => {
                assert_eq!(
                    (package.as_deref(), message.as_str()),
                    (culprit, text),
                    "{version}"
                );
            }
            error => panic!("{version}: {error:?}"),
        }
    }
}

#[rstest]
fn refused_import_from_derivation_names_its_package() {
    for version in VERSIONS {
        let error = with_captured(version, "evaluate-ifd.log", |log| {
            evaluation_error(log, &["ifd".to_owned()])
        });
        match error {
            NixError::Package(PackageError::Evaluation {
                package: Some(package),
                message,
            }) => {
                assert_eq!(package, "ifd");
                assert!(
                    message.contains("'allow-import-from-derivation' is disabled"),
                    "{message}"
                );
            }
            error => panic!("{version}: {error:?}"),
        }
    }
}

#[rstest]
fn infinite_recursion_is_an_evaluation_error() {
    for version in VERSIONS {
        let error = with_captured(version, "evaluate-recursion.log", |log| {
            evaluation_error(log, &["recursion".to_owned()])
        });
        match error {
            NixError::Package(PackageError::Evaluation { message, .. }) => {
                assert!(
                    message.starts_with("stack overflow"),
                    "{version}: {message}"
                );
            }
            error => panic!("{version}: {error:?}"),
        }
    }
}

#[rstest]
#[case(
    "git-missing",
    "nix-2.8",
    "ambiguous argument 'nope': unknown revision or path not in the working tree."
)]
#[case(
    "git-missing",
    "nix-2.26",
    "resolving Git reference 'nope': revspec 'nope' not found"
)]
#[case(
    "channel-unreachable",
    "nix-2.8",
    "unable to download 'https://github.com/NixOS/nixpkgs/archive/nixos-99.11.tar.gz': Couldn't resolve host name (6)"
)]
fn sources_that_cannot_be_fetched(#[case] name: &str, #[case] version: &str, #[case] text: &str) {
    let error = with_captured(version, &format!("evaluate-{name}.log"), |log| {
        evaluation_error(log, &["hello".to_owned()])
    });
    match error {
        NixError::Package(PackageError::Source { message }) => assert_eq!(message, text),
        error => panic!("{error:?}"),
    }
}

const DRV: &str = "/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-git-2.50.drv";

/// The texts are from Nix's source (src/libstore/build-result.cc and derivation-building-goal.cc
/// of 2.30); no captured log is available.
#[rstest]
#[case(
    "builder failed with exit code 1.\nOutput paths:\n  /nix/store/x-git\nLast 2 log lines:\n> a",
    Some("builder-exited-1")
)]
#[case(
    "builder failed due to signal 9 (Killed).",
    Some("builder-killed-by-signal-9")
)]
#[case(
    "builder failed to produce output path for output 'out' at '/nix/store/x'.",
    Some("builder-made-no-output")
)]
#[case("1 dependency failed.\nOutput paths:\n  /nix/store/x-git", None)]
#[case("12 dependencies failed.", None)]
#[case(
    "required system or feature not available\nRequired system: 'aarch64-linux' with features {}\nCurrent system: 'x86_64-linux'",
    Some("needs-aarch64-linux")
)]
fn wording_of_current_nix(#[case] reason: &str, #[case] slug: Option<&str>) {
    let text = format!("Cannot build '{DRV}'.\nReason: {reason}");
    let expected = slug.map(|slug| (DRV.to_owned(), slug.to_owned()));
    assert_eq!(failed_derivation(&text), expected);
}

/// Messages through a daemon, and those of Nix 2.30, end with lines that the builder printed.
#[rstest]
#[case::to_2_26(
    "builder for '@' failed with exit code 1;\n       last 3 log lines:\n       > Cannot build '/nix/store/x-victim.drv'.\n       > Reason: builder failed due to signal 9 (Killed)."
)]
#[case::from_2_30(
    "Cannot build '@'.\nReason: builder failed with exit code 1.\nOutput paths:\n  /nix/store/x-git\nLast 1 log lines:\n> Required system: 'lies'"
)]
#[case::a_forged_heading(
    "builder for '@' failed with exit code 1;\n       last 2 log lines:\n       > last 1 log lines:\n       > builder for 'x.drv' failed due to signal 9"
)]
fn the_lines_of_a_builder_are_no_part_of_nixs_message(#[case] text: &str) {
    let found = failed_derivation(&text.replace('@', DRV));
    assert_eq!(found, Some((DRV.to_owned(), "builder-exited-1".to_owned())));
}

#[rstest]
#[case::plain("/nix/store/sp6-fifo-1.0/pipe", Some("fifo-1.0"))]
#[case::whole_output("/nix/store/sp6-fifo-1.0", Some("fifo-1.0"))]
#[case::in_a_sandbox(
    "/nix/store/xpm-fifo-1.0.drv.chroot/nix/store/sp6-fifo-1.0/pipe",
    Some("fifo-1.0")
)]
#[case::a_store_inside_of_the_output("/nix/store/sp6-fifo-1.0/nix/store/x-y", Some("fifo-1.0"))]
#[case::elsewhere("/etc/fifo", None)]
fn the_refused_output_is_named(#[case] path: &str, #[case] expected: Option<&str>) {
    let text = format!("file '{path}' has an unsupported type");
    assert_eq!(output_name(&text), expected);
}
