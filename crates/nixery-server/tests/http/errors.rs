//! Error answers: their form, their codes, and what they must not reveal.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use axum::response::IntoResponse;
use http_body_util::BodyExt;
use nixery_builder::{BuildError, Phase};
use nixery_core::{ByteSize, LayerPlanError, PackError};
use nixery_manifest::Digest;
use nixery_nix::{NixError, PackageError};
use nixery_server::error::{ApiError, BuildAnswer};
use nixery_storage::{Operation, StorageError};
use rstest::rstest;

use crate::registry::Registry;

#[rstest]
#[case::name("/v2/Git/manifests/latest", 400, "NAME_INVALID")]
#[case::long_name(&format!("/v2/{}/manifests/latest", "a".repeat(256)), 400, "NAME_INVALID")]
#[case::encoded_slash("/v2/a%2Fb/manifests/latest", 400, "NAME_INVALID")]
#[case::tag("/v2/git/manifests/-tag", 400, "TAG_INVALID")]
#[case::long_tag(&format!("/v2/git/manifests/{}", "a".repeat(129)), 400, "TAG_INVALID")]
#[case::digest("/v2/git/manifests/sha256:12", 400, "DIGEST_INVALID")]
#[case::algorithm("/v2/git/manifests/sha512:12", 400, "DIGEST_INVALID")]
#[case::blob_digest("/v2/git/blobs/latest", 400, "DIGEST_INVALID")]
#[case::referrers_digest("/v2/git/referrers/latest", 400, "DIGEST_INVALID")]
#[case::page_size("/v2/git/tags/list?n=many", 400, "PAGINATION_NUMBER_INVALID")]
#[case::catalogue("/v2/_catalog", 404, "UNSUPPORTED")]
#[case::upload("/v2/git/blobs/uploads/", 404, "UNSUPPORTED")]
#[case::nothing("/v2/git", 404, "UNSUPPORTED")]
#[tokio::test]
async fn wrong_requests_get_the_specifications_codes(
    #[case] path: &str,
    #[case] status: u16,
    #[case] code: &str,
) {
    let registry = Registry::new().await;
    let answer = registry.get(path).await;
    let (found, found_code, message) = answer.error();
    assert_eq!((found, found_code.as_str()), (status, code));
    assert!(!message.is_empty());
    assert_eq!(
        answer.header("docker-distribution-api-version"),
        "registry/2.0"
    );
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let head = registry.head(path).await;
    assert_eq!(head.status.as_u16(), status);
    assert!(head.body.is_empty());
    assert_eq!(registry.nix.evaluations(), 0);
}

#[tokio::test]
async fn an_unknown_blob_is_named() {
    let registry = Registry::new().await;
    let digest = Digest::of(b"unknown");
    let (status, code, message) = registry
        .get(&format!("/v2/git/blobs/{digest}"))
        .await
        .error();
    assert_eq!((status, code.as_str()), (404, "BLOB_UNKNOWN"));
    assert!(message.contains(&digest.to_string()));
}

const SECRET: &str = "/srv/secret/store";

fn system() -> io::Error {
    io::Error::from_raw_os_error(2)
}

fn storage_errors() -> Vec<StorageError> {
    let target = || format!("{SECRET}/layers/x");
    vec![
        StorageError::Open {
            backend: "filesystem",
            location: SECRET.into(),
            problem: system().to_string(),
            source: Some(system()),
        },
        StorageError::Denied {
            backend: "filesystem",
            operation: Operation::Read,
            target: target(),
            source: system().into(),
        },
        StorageError::Denied {
            backend: "filesystem",
            operation: Operation::Write,
            target: target(),
            source: system().into(),
        },
        StorageError::NoSpace {
            backend: "filesystem",
            operation: Operation::Write,
            target: target(),
            source: system().into(),
        },
        StorageError::Failed {
            backend: "filesystem",
            operation: Operation::Read,
            target: target(),
            retryable: true,
            source: system().into(),
        },
        StorageError::Failed {
            backend: "filesystem",
            operation: Operation::Read,
            target: target(),
            retryable: false,
            source: system().into(),
        },
        StorageError::Spool {
            target: target(),
            path: SECRET.into(),
            source: system(),
        },
        StorageError::Truncated {
            backend: "filesystem",
            target: target(),
            expected: 2,
            actual: 1,
        },
        StorageError::RangeNotSatisfiable {
            target: target(),
            start: 2,
            end: 3,
            size: 1,
        },
        StorageError::TooLarge {
            backend: "filesystem",
            target: target(),
            size: 2,
            limit: 1,
        },
    ]
}

fn pack_errors() -> Vec<PackError> {
    let path = || PathBuf::from(format!("{SECRET}/nix/store/abc-git/bin/git"));
    vec![
        PackError::Missing { path: path() },
        PackError::Unreadable {
            action: "read the file",
            path: path(),
            source: system(),
        },
        PackError::Changed {
            path: path(),
            detail: "it is no longer a file".into(),
        },
        PackError::Unsupported {
            path: path(),
            kind: "a socket",
        },
        PackError::Whiteout { path: path() },
        PackError::MixedStores {
            first: path(),
            second: path(),
        },
        PackError::ForestTooLarge {
            path: path(),
            limit: 1,
        },
        PackError::Write { source: system() },
    ]
}

fn killed() -> BuildError {
    BuildError::Unavailable(NixError::Killed {
        command: "nix-instantiate",
        cause: "was killed by SIGKILL, probably because the server has too little memory".into(),
    })
}

#[test]
fn a_killed_evaluation_can_be_asked_for_again() {
    let BuildAnswer::Direct(answer) = BuildAnswer::of(&killed()) else {
        panic!("a redirect")
    };
    assert_eq!(answer.status, 503);
    assert!(answer.retry_after.is_some());
    assert!(
        answer.message.contains("killed by SIGKILL"),
        "{}",
        answer.message
    );
}

fn build_errors() -> Vec<BuildError> {
    let message = format!("cannot open {SECRET}/default.nix:3:1");
    let mut errors = vec![
        BuildError::Package(PackageError::NotFound {
            packages: vec!["a".into()],
        }),
        BuildError::Package(PackageError::UnknownRevision {
            revision: "`a`".into(),
            examples: vec!["main".into()],
        }),
        BuildError::Package(PackageError::NotDerivation {
            package: "a".into(),
            found: "a set".into(),
        }),
        BuildError::Package(PackageError::Evaluation {
            package: Some("a".into()),
            message: message.clone(),
        }),
        BuildError::Package(PackageError::Evaluation {
            package: None,
            message: message.clone(),
        }),
        BuildError::Package(PackageError::Failed {
            package: "a".into(),
            derivation: "/nix/store/x.drv".into(),
            reason: "builder-exited-1".into(),
            log_tail: vec!["make: *** error 1".into()],
        }),
        BuildError::TimedOut {
            phase: Phase::Realise,
            after: Duration::from_secs(1),
            log_tail: Vec::new(),
        },
        BuildError::Package(PackageError::Source {
            message: message.clone(),
        }),
        BuildError::Unavailable(NixError::Unavailable {
            problem: message.clone(),
            detail: system().to_string(),
        }),
        BuildError::Unavailable(NixError::Process {
            action: message.clone(),
            source: system(),
        }),
        killed(),
        BuildError::Busy { waiting: 1000 },
        BuildError::QuotaExceeded { waiting: 50 },
        BuildError::TooManyPackages {
            listed: 12,
            limit: NonZeroUsize::MIN,
        },
        BuildError::EvaluationMemory { limit: ByteSize(1) },
        BuildError::ClosureTooLarge {
            size: ByteSize(2),
            limit: ByteSize(1),
            largest: vec![("git-2.38".into(), ByteSize(2))],
        },
        BuildError::ImageTooLarge {
            size: ByteSize(2),
            limit: ByteSize(1),
        },
        BuildError::DiskFull {
            place: "blob store",
            missing: "inodes",
        },
        BuildError::Spool {
            action: "write a temporary file",
            source: system(),
        },
        BuildError::Internal { what: message },
        BuildError::Damaged {
            digest: Digest::of(b"manifest"),
        },
        BuildError::InvalidPlan {
            strategy: "broken".to_owned(),
            violation: LayerPlanError::EmptyLayer { layer: 2 },
        },
    ];
    errors.extend(pack_errors().into_iter().map(BuildError::Pack));
    errors.extend(
        storage_errors()
            .into_iter()
            .map(|source| BuildError::Storage {
                doing: "stored",
                source,
            }),
    );
    errors
}

async fn body(error: ApiError) -> String {
    let response = error.into_response();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn no_error_reveals_a_path_of_this_server_or_a_message_of_its_system() {
    let builds = build_errors()
        .into_iter()
        .map(|error| (format!("{error:?}"), BuildAnswer::of(&error).into_error()));
    let storage = storage_errors()
        .into_iter()
        .map(|error| (format!("{error:?}"), ApiError::from(&error)));
    for (error, answer) in builds.chain(storage) {
        assert!(
            answer.status.is_client_error() || answer.status.is_server_error(),
            "{error}"
        );
        let body = body(answer).await;
        for secret in [
            "/srv",
            "secret",
            "No such file",
            "os error",
            "backtrace",
            "panicked",
        ] {
            assert!(!body.contains(secret), "{error} reveals {secret:?}: {body}");
        }
    }
}

#[test]
fn what_is_the_servers_fault_is_not_blamed_on_the_image() {
    for error in build_errors() {
        let own = matches!(
            error,
            BuildError::Unavailable(_)
                | BuildError::Storage { .. }
                | BuildError::Spool { .. }
                | BuildError::Damaged { .. }
                | BuildError::DiskFull { .. }
                | BuildError::InvalidPlan { .. }
                | BuildError::Internal { .. }
        );
        let answer = BuildAnswer::of(&error);
        if own {
            assert!(matches!(answer, BuildAnswer::Direct(_)), "{error:?}");
            let status = answer.into_error().status;
            assert!(
                status.is_server_error() || status.as_u16() == 416,
                "{error:?}"
            );
        }
    }
}

/// podman and skopeo print its message, and containerd that there is no such image.
#[tokio::test]
async fn a_revision_that_does_not_exist_is_unknown() {
    let error = BuildError::Package(PackageError::UnknownRevision {
        revision: "`nope`".into(),
        examples: vec!["main".into(), "v1".into()],
    });
    let BuildAnswer::Direct(answer) = BuildAnswer::of(&error) else {
        panic!("is redirected")
    };
    assert_eq!(answer.status.as_u16(), 404);
    let body = body(answer).await;
    assert!(body.contains("MANIFEST_UNKNOWN"), "{body}");
    let message = "the package source has no `nope` that images can be built from. Fix: use `main`, `v1` or a commit that a branch or tag contains";
    assert!(body.contains(message), "{body}");
}

#[rstest]
#[case::full(io::ErrorKind::StorageFull, 503)]
#[case::quota(io::ErrorKind::QuotaExceeded, 503)]
#[case::forbidden(io::ErrorKind::PermissionDenied, 500)]
fn a_full_disk_is_a_reason_to_come_back(#[case] kind: io::ErrorKind, #[case] status: u16) {
    let spool = BuildError::Spool {
        action: "write a temporary file",
        source: kind.into(),
    };
    let pack = BuildError::Pack(PackError::Write {
        source: kind.into(),
    });
    for error in [spool, pack] {
        let answer = BuildAnswer::of(&error).into_error();
        assert_eq!(answer.status.as_u16(), status, "{error:?}");
        assert_eq!(answer.retry_after.is_some(), status == 503, "{error:?}");
    }
}
