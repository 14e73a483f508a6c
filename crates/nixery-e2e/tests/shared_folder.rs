//! Two servers on one folder: an image is built once, and a server that dies is followed at once.

use nixery_e2e::{NixCalls, Registry, RegistryOptions, http, wait_until};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server on the folder, and the calls of its Nix.
fn server(options: &RegistryOptions, folder: &TempDir) -> (Registry, NixCalls) {
    let calls = NixCalls::new();
    let shared = folder.path().join("shared");
    let options = options
        .clone()
        .env("STORAGE_PATH", shared.to_str().unwrap())
        .env("PATH", &calls.path());
    (Registry::start(options), calls)
}

/// Realisations, without those of the preflight.
fn realisations(calls: &NixCalls) -> usize {
    calls.count("--realise")
}

#[test]
#[ignore = "needs Nix: run make test"]
fn two_servers_build_an_image_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = RegistryOptions::salted(&folder);
    let servers = [server(&options, &folder), server(&options, &folder)];
    let count = || -> usize { servers.iter().map(|(_, calls)| realisations(calls)).sum() };
    let before = count();
    let digests: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|n| {
                let (registry, _) = &servers[n % 2];
                scope.spawn(|| {
                    let answer = registry.manifest("slow-5");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answer.header("docker-content-digest").unwrap().to_owned()
                })
            })
            .collect();
        let answers = clients.into_iter();
        answers.map(|client| client.join().unwrap()).collect()
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    assert_eq!(count() - before, 1);
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_server_that_is_killed_is_followed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = RegistryOptions::salted(&folder);
    let (mut first, first_calls) = server(&options, &folder);
    let (second, second_calls) = server(&options, &folder);
    let before = (realisations(&first_calls), realisations(&second_calls));
    std::thread::scope(|scope| {
        // Its answer never comes.
        let url = first.manifest_url("slow-5");
        scope.spawn(move || http::try_get(&url));
        wait_until("the first server builds", || {
            realisations(&first_calls) > before.0
        });
        let waiting = scope.spawn(|| second.manifest("slow-5"));
        wait_until("the second server waits", || {
            let page = http::request(&["-H", "Accept: text/html", &second.url("/")]).text();
            page.contains("for another server")
        });
        assert_eq!(realisations(&second_calls), before.1);

        first.kill();
        let killed = Instant::now();
        wait_until("the second server builds", || {
            realisations(&second_calls) > before.1
        });
        let waited = killed.elapsed();
        assert!(waited < Duration::from_secs(8), "{waited:?}");
        let answer = waiting.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    second.verify();
}
