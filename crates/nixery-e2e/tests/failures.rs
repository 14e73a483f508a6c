//! Failures that people can read: over HTTP, in a client's output and on the page.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use nixery_e2e::clients::skopeo_copy;
use nixery_e2e::command::with_in_environment;
use nixery_e2e::http::{self, Response};
use nixery_e2e::{Registry, RegistryOptions};

/// The code and the message of an error answer.
#[track_caller]
fn error(answer: &Response) -> (String, String) {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let error = &answer.json()["errors"][0];
    (
        error["code"].as_str().unwrap().to_owned(),
        error["message"].as_str().unwrap().to_owned(),
    )
}

/// What skopeo prints when it cannot pull the image.
#[track_caller]
fn skopeo_says(registry: &Registry, image: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    skopeo_copy(&registry.reference(image), folder.path())
        .0
        .failure()
}

/// A failed image answers with a redirect that says why in its URL, and that URL with 422 and the
/// reason in words.
#[track_caller]
fn assert_fails(registry: &Registry, image: &str, slug: &str, words: &[&str]) {
    let answer = http::get(&registry.manifest_url(image));
    assert_eq!(answer.status, 307, "{image}: {}", answer.text());
    let location = answer.header("location").unwrap().to_owned();
    assert!(location.contains(&format!("failed={slug}")), "{location}");
    assert!(location.contains("log=/builds/"), "{location}");

    let answer = http::get(&registry.url(&location));
    assert_eq!(answer.status, 422, "{}", answer.text());
    let (_, message) = error(&answer);
    let said = skopeo_says(registry, image);
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
        assert!(
            said.contains(word),
            "skopeo's output does not say {word:?}:\n{said}"
        );
    }

    let log = location
        .split("log=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap();
    let page = http::get(&registry.url(log));
    assert_eq!(page.status, 200);
    let start = http::get(&registry.url("/")).text();
    assert!(
        start.contains(log),
        "the start page does not list the failure of {image}"
    );
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn missing_packages_are_all_named() {
    let registry = Registry::on_demo_set();
    let image = "hello/no-such-package/git/nor-this-one";
    let answer = http::get(&registry.manifest_url(image));
    assert_eq!(answer.status, 404);
    let (code, message) = error(&answer);
    assert_eq!(code, "MANIFEST_UNKNOWN");
    let said = skopeo_says(&registry, image);
    for name in ["no-such-package", "nor-this-one"] {
        assert!(message.contains(name), "{message}");
        assert!(said.contains(name), "{said}");
    }
    assert!(
        !message.contains("hello") && !message.contains("git"),
        "{message}"
    );
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn a_build_that_fails_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(RegistryOptions::salted(&folder));
    let reason = "this is the reason it fails";
    assert_fails(
        &registry,
        "hello/fails",
        "fails:builder-exited-1",
        &["fails", "exited with code 1", reason],
    );
    assert_fails(
        &registry,
        "fails-with-7",
        "fails-with-7:builder-exited-7",
        &["exited with code 7"],
    );
    assert_fails(
        &registry,
        "needs-fails",
        "needs-fails:",
        &["needs-fails", "fails below"],
    );
    assert_fails(
        &registry,
        "dirty-log-fails",
        "dirty-log-fails:",
        &["dirty-log-fails: the last line"],
    );
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn a_build_that_hangs_times_out() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(RegistryOptions::salted(&folder).env("NIX_TIMEOUT", "4"));
    assert_fails(&registry, "hangs", "realise:timed-out", &["4 s"]);
    // Its builder lives in a process group of its own and does not heed SIGTERM; Nix must have seen
    // to it.
    let salt = std::fs::read(folder.path().join("test-set/salt")).unwrap();
    let left = with_in_environment(&salt);
    assert!(left.is_empty(), "builders still run: {left:?}");
}

/// The wrapper kills the first evaluation, as the kernel does when memory is short.
#[test]
#[ignore = "needs Nix: run make test"]
fn a_killed_evaluation_can_be_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("wrapper");
    let script = r#"#!/bin/sh
case "$*" in
*hello*) mkdir "$0.killed" 2>/dev/null && kill -KILL $$ ;;
esac
exec "$@"
"#;
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
    let options = RegistryOptions::demo()
        .env("NIXERY_NIX_WRAPPER", wrapper.to_str().unwrap())
        .env("NIXERY_FAILURE_TTL", "0");
    let registry = Registry::start(options);
    let answer = http::get(&registry.manifest_url("hello"));
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    let (code, message) = error(&answer);
    assert_eq!(code, "UNAVAILABLE");
    assert!(message.contains("was killed by SIGKILL"), "{message}");
    assert!(message.contains("too little memory"), "{message}");
    let again = http::get(&registry.manifest_url("hello"));
    assert_eq!(again.status, 200, "{}", again.text());
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn a_package_that_does_not_evaluate_says_why() {
    let registry = Registry::start(RegistryOptions::awkward());
    for image in [
        "throws",
        "throws-late",
        "asserts",
        "recurses",
        "imports-from-derivation",
    ] {
        assert_fails(&registry, &format!("hello/{image}"), image, &[image]);
    }
    for (image, kind) in [
        ("a-function", "a function"),
        ("a-set", "a set"),
        ("a-string", "a string"),
        ("a-number", "a number"),
    ] {
        assert_fails(&registry, image, image, &[image, kind]);
    }
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_name_that_would_delete_files_is_refused() {
    let registry = Registry::start(RegistryOptions::awkward());
    for image in ["whiteout", "opaque-whiteout"] {
        let answer = registry.manifest(image);
        assert_eq!(answer.status, 422, "{}", answer.text());
        let (_, message) = error(&answer);
        assert!(message.contains("share/.wh."), "{message}");
    }
}

#[test]
#[ignore = "needs Nix: run make test"]
fn no_answer_shows_a_path_of_the_server() {
    let registry = Registry::start(RegistryOptions::awkward());
    let storage = registry.storage();
    let set = nixery_e2e::test_set();
    for image in [
        "fails",
        "throws",
        "asserts",
        "recurses",
        "a-function",
        "no-such-package",
        "whiteout",
    ] {
        let answer = registry.manifest(image);
        assert!(answer.status >= 400, "{image}: {}", answer.status);
        for path in [storage.to_str().unwrap(), set.to_str().unwrap()] {
            assert!(!answer.text().contains(path), "{image}: {}", answer.text());
        }
    }
    // The logs neither, though Nix traces evaluations through the files of the package set.
    let builds = http::request(&["-H", "Accept: text/html", &registry.url("/")]).text();
    let logs: Vec<_> = builds
        .match_indices("/builds/")
        .map(|(at, _)| builds[at..].split('"').next().unwrap())
        .collect();
    assert!(logs.len() >= 7, "{builds}");
    for log in logs {
        let log = http::get(&registry.url(log)).text();
        for path in [storage.to_str().unwrap(), set.to_str().unwrap()] {
            assert!(!log.contains(path), "{log}");
        }
    }
}
