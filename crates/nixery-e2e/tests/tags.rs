//! Tags of a local package set: versions that are asserted, and what is no tag.

use nixery_e2e::Registry;
use nixery_e2e::clients::skopeo_copy;
use nixery_e2e::http::{self, Response};

/// The version of `git` in the demo set.
const VERSION: &str = "2.39.5";

fn manifest(registry: &Registry, image: &str, tag: &str) -> Response {
    http::get_following(&registry.url(&format!("/v2/{image}/manifests/{tag}")))
}

fn digest(answer: &Response) -> &str {
    let digest = answer.header("docker-content-digest");
    digest.expect("the digest of the manifest")
}

#[track_caller]
fn refusal(answer: &Response) -> String {
    assert_eq!(answer.status, 404, "{}", answer.text());
    let error = &answer.json()["errors"][0];
    assert_eq!(error["code"], "MANIFEST_UNKNOWN");
    error["message"].as_str().expect("a text").to_owned()
}

#[test]
#[ignore = "needs Nix and the demo set: run make test"]
fn a_tag_is_a_version_that_the_first_package_has() {
    let registry = Registry::on_demo_set();
    // Nothing is built yet.
    let message = refusal(&manifest(&registry, "git/hello", "2.30"));
    assert_eq!(
        message,
        format!(
            "the package `git` has the version {VERSION} here, not 2.30. Fix: pull `git/hello:{VERSION}`, or without a tag"
        )
    );
    let message = refusal(&manifest(&registry, "git/hello", "nonsense"));
    assert!(
        message.contains("no tag `nonsense`. Fix: use `latest`"),
        "{message}"
    );

    let latest = manifest(&registry, "git/hello", "latest");
    assert_eq!(latest.status, 200, "{}", latest.text());
    for tag in ["2.39", VERSION, "v2"] {
        let answer = manifest(&registry, "git/hello", tag);
        assert_eq!(answer.status, 200, "{tag}: {}", answer.text());
        assert_eq!(digest(&answer), digest(&latest), "{tag}");
    }
    // The other package is the first one.
    let message = refusal(&manifest(&registry, "hello/git", "2.39"));
    assert!(
        message.contains("the package `hello` has the version"),
        "{message}"
    );

    let folder = tempfile::tempdir().expect("a scratch folder");
    let reference = registry.reference("git/hello");
    let (pulled, _) = skopeo_copy(&format!("{reference}:2.39"), folder.path());
    pulled.success();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (refused, _) = skopeo_copy(&format!("{reference}:2.30"), folder.path());
    let said = refused.failure();
    assert!(said.contains(VERSION), "{said}");

    let listed = http::get(&registry.url("/v2/git/hello/tags/list")).json();
    let made_up = ["2.30", "2.39", "nonsense"];
    let tags = listed["tags"].as_array().expect("a list");
    assert!(tags.iter().any(|tag| tag == "latest"), "{listed}");
    assert!(
        !tags.iter().any(|tag| made_up.iter().any(|one| tag == one)),
        "{listed}"
    );
}
