//! Failed builds, and the reasons that are found in the output of Nix.

use nixery_builder::BuildError;
use nixery_nix::PackageError;
use rstest::rstest;

use crate::setup::Setup;

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn all_missing_packages_are_named() {
    let error = Setup::new().await.fail("nope/foo/set.nothing/throws").await;
    match &*error {
        BuildError::Package(PackageError::NotFound { packages }) => {
            assert_eq!(packages, &["nope", "set.nothing"])
        }
        error => panic!("{error:?}"),
    }
}

#[rstest]
#[case("set", "a set")]
#[case("func", "a function")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn an_attribute_that_is_not_a_package_is_an_error_that_says_what_it_is(
    #[case] name: &str,
    #[case] kind: &str,
) {
    match &*Setup::new().await.fail(name).await {
        BuildError::Package(PackageError::NotDerivation { package, found }) => {
            assert_eq!((package.as_str(), found.as_str()), (name, kind));
        }
        error => panic!("{error:?}"),
    }
}

#[rstest]
#[case("throws", "this package is marked broken in …/default.nix")]
#[case("ifd", "allow-import-from-derivation")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn evaluation_errors_name_the_package(#[case] name: &str, #[case] text: &str) {
    let error = Setup::new().await.fail(&format!("foo/{name}")).await;
    match &*error {
        BuildError::Package(PackageError::Evaluation {
            package: Some(package),
            message,
        }) => {
            assert_eq!(package, name);
            assert!(message.contains(text), "{message}");
        }
        error => panic!("{error:?}"),
    }
    assert!(!error.to_string().contains("/srv"), "{error}");
}

#[rstest]
#[case::itself("broken")]
#[case::dependency("needsbroken")]
#[case::dependency_of_a_dependency("needsneedsbroken")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn build_failures_name_package_derivation_and_log(#[case] name: &str) {
    let setup = Setup::new().await;
    let error = setup.fail(&format!("foo/{name}")).await;
    match &*error {
        BuildError::Package(PackageError::Failed {
            package,
            derivation,
            reason,
            log_tail,
        }) => {
            assert_eq!(package, name);
            assert!(
                derivation.ends_with("-broken-dependency-2.1.drv"),
                "{derivation}"
            );
            assert_eq!(reason, "builder-exited-7");
            assert_eq!(log_tail.len(), 20);
            assert_eq!(log_tail[18..], ["line 25", "nul \u{fffd}"]);
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(error.slug(), format!("{name}:builder-exited-7"));
    let id = setup.builder.recent()[0].id;
    let build = setup.builder.find(&id).expect("is remembered");
    let log = build.log().text();
    assert!(log.contains("broken-dependency-2.1> line 1\n"), "{log}");
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn the_reason_that_nix_refuses_an_output_is_reported() {
    match &*Setup::new().await.fail("fifo").await {
        BuildError::Package(PackageError::Failed {
            package,
            reason,
            log_tail,
            ..
        }) => {
            assert_eq!(
                (package.as_str(), reason.as_str()),
                ("fifo", "output-refused")
            );
            assert!(
                log_tail
                    .join(" ")
                    .contains("/pipe' has an unsupported type"),
                "{log_tail:?}"
            );
        }
        error => panic!("{error:?}"),
    }
}
