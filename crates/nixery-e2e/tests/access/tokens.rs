//! Tokens of this server that have expired, or are for another image.

use std::time::{Duration, SystemTime};

use nixery_access::{Identity, Issuer};
use nixery_e2e::{LoginClient, Transport, http};
use rstest::rstest;
use serde_json::json;

use crate::guarded::{Guarded, Logins, SERVICE, TOKEN_KEY, assert_refused};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A token of the server for the image `hello`, issued some time ago for an hour.
fn token(image: &str, age: Duration) -> String {
    let issuer = Issuer::from_pem("nixery".to_owned(), TOKEN_KEY).expect("the key is valid");
    let issued = SystemTime::now() - age;
    issuer.issue(&Identity::user("alice"), SERVICE, &[image], HOUR, issued)
}

#[rstest]
#[case::expired("hello", 2 * HOUR, "has expired")]
#[case::of_another_image("htop", Duration::ZERO, "does not allow pulling `hello`")]
#[ignore = "needs Nix, skopeo and Docker: run make test"]
fn a_token_is_refused(#[case] image: &str, #[case] age: Duration, #[case] words: &str) {
    let guarded = Guarded::start(Logins::Tokens);
    let token = token(image, age);
    let url = guarded.registry.manifest_url("hello");
    let header = format!("Authorization: Bearer {token}");
    let reference = guarded.reference("hello", "latest");
    guarded.without_nix(|| {
        assert_refused(
            &http::request(&["-H", &header, &url]),
            401,
            "UNAUTHORIZED",
            words,
        );
        let skopeo = LoginClient::start("skopeo", Transport::Plain);
        let said = skopeo
            .skopeo_copy(&["--src-registry-token", &token], &reference)
            .failure();
        assert!(said.contains(words), "{said}");
        let docker = LoginClient::start("docker", Transport::Plain);
        docker.use_pull_secret(&guarded.registry.host(), &json!({ "registrytoken": token }));
        let said = docker.pull(&reference).failure();
        assert!(said.contains(words), "{said}");
    });
}

#[test]
#[ignore = "needs Nix, skopeo and Docker: run make test"]
fn a_valid_token_is_enough() {
    let guarded = Guarded::start(Logins::Tokens);
    let token = token("hello", Duration::ZERO);
    let reference = guarded.reference("hello", "latest");
    let skopeo = LoginClient::start("skopeo", Transport::Plain);
    skopeo
        .skopeo_copy(&["--src-registry-token", &token], &reference)
        .success();
    let docker = LoginClient::start("docker", Transport::Plain);
    docker.use_pull_secret(&guarded.registry.host(), &json!({ "registrytoken": token }));
    docker.pull(&reference).success();
}
