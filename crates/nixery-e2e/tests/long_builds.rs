//! Builds longer than a client waits for an answer's headers.

use nixery_e2e::clients::{Containerd, Podman, skopeo_copy};
use nixery_e2e::{HeaderLimitProxy, Registry, RegistryOptions, http};
use std::time::{Duration, Instant};

/// What containerd from 2.3 on allows between a request and the headers of its answer.
const CONTAINERD_LIMIT: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs Nix, skopeo, podman and containerd, takes 80 s: run make test"]
fn a_build_of_70_seconds_pulls_through_a_limit_of_30() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(RegistryOptions::salted(&folder));
    let proxy = HeaderLimitProxy::start(registry.port(), CONTAINERD_LIMIT);
    let reference = format!("127.0.0.1:{}/slow-70", proxy.port());
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let containerd = Containerd::start();
            containerd.pull(&format!("{reference}:latest")).success();
        });
        scope.spawn(|| Podman::new().pull(&reference).success());
        scope.spawn(|| {
            let folder = tempfile::tempdir().unwrap();
            skopeo_copy(&reference, folder.path()).0.success();
        });
    });
    assert!(
        started.elapsed() > Duration::from_secs(65),
        "the build was not new"
    );
    assert_eq!(proxy.cut_off(), 0, "an answer took longer than the limit");
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_hold_ends_in_redirects_and_then_in_retry_after() {
    let folder = tempfile::tempdir().unwrap();
    let registry =
        Registry::start(RegistryOptions::salted(&folder).env("NIXERY_HOLD_SECONDS", "1"));
    let mut url = registry.manifest_url("slow-70");
    for hold in 1..=8 {
        let answer = http::get(&url);
        assert_eq!(answer.status, 307, "{}", answer.text());
        let location = answer.header("location").unwrap();
        assert!(location.ends_with(&format!("hold={hold}")), "{location}");
        url = registry.url(location);
    }
    let answer = http::get(&url);
    assert_eq!(answer.status, 429);
    assert!(
        answer
            .header("retry-after")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            > 0
    );
    assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
}
