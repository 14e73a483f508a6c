//! Limits of what one image may need, as clients see them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nixery_builder::{BuildError, BuilderConfig};
use nixery_core::ByteSize;
use nixery_nix::NixError;
use nixery_server::config::HttpSettings;
use nixery_server::error::BuildAnswer;
use nixery_storage::MemoryStorage;
use rstest::rstest;

use crate::registry::Registry;

fn at_most_two(config: &mut BuilderConfig) {
    config.max_packages = NonZeroUsize::new(2);
}

fn small_closure(config: &mut BuilderConfig) {
    config.max_closure_size = Some(ByteSize(1_500_000));
}

fn small_image(config: &mut BuilderConfig) {
    config.max_image_size = Some(ByteSize(10));
}

/// Checks how many failures of a kind the metrics have. Builds are counted by tasks of their own,
/// which first get the time to run.
async fn assert_counted(registry: &Registry, kind: &str, failures: usize) {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let metrics = registry.get("/metrics").await;
    let counted = format!("nixery_build_failures_total{{kind=\"{kind}\"}} {failures}");
    assert!(metrics.text().contains(&counted), "{}", metrics.text());
}

#[tokio::test]
async fn a_name_with_too_many_packages_is_invalid() {
    let registry = Registry::with(at_most_two).await;
    let path = "/v2/shell/git/htop/hello/git/manifests/latest";
    let (status, code, message) = registry.get(path).await.error();
    assert_eq!((status, code.as_str()), (400, "NAME_INVALID"));
    let expected = "the image name lists 3 packages, and the server allows 2. Fix: name fewer packages, or ask the operator to raise `NIXERY_MAX_PACKAGES`";
    assert_eq!(message, expected);
    assert_eq!(registry.head(path).await.status, 400);
    assert_eq!(registry.nix.evaluations(), 0);
    assert_counted(&registry, "too-many-packages", 2).await;

    registry.manifest("shell/git/htop").await;
    // What builds nothing is not limited.
    let tags = registry.get("/v2/git/htop/hello/tags/list").await;
    assert_eq!(tags.status, 200);
}

#[rstest]
#[case::closure(
    small_closure,
    "closure-too-large",
    "the packages and all that they depend on take 3.0 MB unpacked, more than the 1.5 MB that the server allows for an image. The largest parts are `"
)]
#[case::image(
    small_image,
    "image-too-large",
    "compressed, more than the 10 B that the server allows. Fix: name fewer packages"
)]
#[tokio::test]
async fn an_image_that_is_too_large_redirects_to_the_reason(
    #[case] limit: fn(&mut BuilderConfig),
    #[case] slug: &str,
    #[case] expected: &str,
) {
    let registry = Registry::with(limit).await;
    let path = "/v2/git/manifests/latest";
    let answer = registry.get(path).await;
    assert_eq!(answer.status, 307);
    let location = answer.header("location").to_owned();
    let reason = format!("{path}?failed={slug}&log=/builds/");
    assert!(location.starts_with(&reason), "{location}");

    let answer = registry.get(&location).await;
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (422, "MANIFEST_UNKNOWN"));
    assert!(message.contains(expected), "{message}");
    let detail = &answer.json()["errors"][0]["detail"];
    assert_eq!(detail["kind"], slug);
    assert_counted(&registry, slug, 1).await;
}

/// The limit was lowered after the image was built.
#[tokio::test]
async fn a_stored_image_beyond_the_limit_is_refused_without_a_build() {
    let storage = Arc::new(MemoryStorage::new());
    let settings = HttpSettings::default;
    let generous = Registry::over(storage.clone(), settings(), |_| {}).await;
    generous.manifest("git").await;
    let strict = Registry::over(storage, settings(), small_image).await;
    let answer = strict.get("/v2/git/manifests/latest").await;
    let reason = answer.header("location");
    assert!(reason.contains("failed=image-too-large"), "{reason}");
}

#[test]
fn an_evaluation_beyond_its_memory_is_the_fault_of_the_packages() {
    let error = BuildError::EvaluationMemory {
        limit: ByteSize(16 << 30),
    };
    let BuildAnswer::Failure(answer) = BuildAnswer::of(&error) else {
        panic!("is answered directly")
    };
    assert_eq!(answer.status, 422);
    let expected = "the evaluation of the packages needed more than 17.2 GB of memory. Fix: name fewer packages";
    assert!(answer.message.starts_with(expected), "{}", answer.message);
    // What the kernel kills may have been ended by other programs' need.
    let killed = BuildError::Unavailable(NixError::Killed {
        command: "nix-instantiate",
        cause: "was killed by SIGKILL".into(),
    });
    assert_eq!(BuildAnswer::of(&killed).into_error().status, 503);
}
