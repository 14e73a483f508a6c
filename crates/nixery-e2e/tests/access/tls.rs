//! TLS and the admin listener.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nixery_e2e::command::run;
use nixery_e2e::http::{self, Response};
use nixery_e2e::{LoginClient, Registry, RegistryOptions, Transport, free_port};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rstest::rstest;
use tempfile::TempDir;

use crate::guarded::{ALICE, Guarded, Logins};

/// Pulls while certificates are replaced.
const PULLS: usize = 50;
/// Pulls at once.
const WORKERS: usize = 4;
/// Certificates that the server must have used meanwhile, the first included.
const CERTIFICATES: usize = 3;

/// A certificate authority that only the clients of a test know.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Has `ca.crt` for the clients, and the files of the server in `server`.
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not the name of the certificates that it signs.
        params
            .distinguished_name
            .push(DnType::CommonName, "Authority");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.path().join("ca.crt"), certificate.pem()).expect("a scratch folder");
        std::fs::create_dir(folder.path().join("server")).expect("a new folder");
        let authority = Self {
            issuer: Issuer::new(params, key),
            folder,
        };
        authority.replace_certificate();
        authority
    }

    /// Replaces the certificate of the server and its key, one after the other, by renaming.
    fn replace_certificate(&self) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        for (path, contents) in [
            (self.certificate(), certificate.pem()),
            (self.key(), key.serialize_pem()),
        ] {
            let new = path.with_extension("new");
            std::fs::write(&new, contents).expect("a scratch folder");
            std::fs::rename(&new, &path).expect("a scratch folder");
        }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("server/tls.crt")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("server/tls.key")
    }

    /// A registry of the demo set with the certificate.
    fn registry(&self) -> Registry {
        let text = |path: PathBuf| path.display().to_string();
        let options = RegistryOptions::demo()
            .env("NIXERY_TLS_CERT", &text(self.certificate()))
            .env("NIXERY_TLS_KEY", &text(self.key()));
        Registry::start(options)
    }

    fn transport(&self) -> Transport {
        Transport::Tls(self.folder.path().to_path_buf())
    }
}

/// The serial number of the certificate that the registry presents.
#[track_caller]
fn certificate_of(registry: &Registry, authority: &Path) -> String {
    let connect = format!(
        "openssl s_client -connect {} -CAfile {} -verify_return_error </dev/null | openssl x509 -noout -serial",
        registry.host(),
        authority.join("ca.crt").display()
    );
    run(std::process::Command::new("sh").args(["-c", &connect])).success()
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn no_pull_breaks_while_certificates_are_replaced() {
    let authority = Authority::new();
    let registry = authority.registry();
    let client = LoginClient::start("skopeo", authority.transport());
    let reference = format!("{}:latest", registry.reference("hello"));
    client.pull(&reference).success();
    let first = certificate_of(&registry, authority.folder.path());
    let pulls = AtomicUsize::new(0);
    let used = || registry.logged("using this certificate for TLS");
    let is_done = || pulls.load(Ordering::Relaxed) >= PULLS && used() >= CERTIFICATES;
    let deadline = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while !is_done() && Instant::now() < deadline {
                    client.pull(&reference).success();
                    pulls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while !is_done() && Instant::now() < deadline {
            authority.replace_certificate();
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    assert!(
        is_done(),
        "{} pulls, {} certificates",
        pulls.into_inner(),
        used()
    );
    let last = certificate_of(&registry, authority.folder.path());
    assert_ne!(first, last);
}

#[rstest]
#[ignore = "needs Nix and clients: run make test"]
fn clients_verify_the_certificate(#[values("skopeo", "podman", "ctr")] name: &str) {
    let authority = Authority::new();
    let registry = authority.registry();
    let reference = format!("{}:latest", registry.reference("hello"));
    let client = LoginClient::start(name, authority.transport());
    client.pull(&reference).success();
    let stranger = Authority::new();
    let client = LoginClient::start(name, stranger.transport());
    let said = client.pull(&reference).failure();
    assert!(
        said.contains("certificate signed by unknown authority"),
        "{said}"
    );
}

/// Docker verifies no certificates of the loopback address.
#[rstest]
#[ignore = "needs Nix, git and clients: run make test"]
fn users_log_in_over_tls(#[values("skopeo", "podman", "docker", "ctr")] name: &str) {
    let authority = Authority::new();
    let [certificate, key] =
        [authority.certificate(), authority.key()].map(|path| path.display().to_string());
    let settings = [
        ("NIXERY_TLS_CERT", certificate.as_str()),
        ("NIXERY_TLS_KEY", key.as_str()),
    ];
    let guarded = Guarded::with(Logins::Tokens, "", &settings);
    let mut client = LoginClient::start(name, authority.transport());
    let reference = guarded.reference("hello", "latest");
    let said = guarded.without_nix(|| client.pull(&reference)).failure();
    assert!(
        said.contains("401") || said.contains("you have not logged in"),
        "{said}"
    );
    if let Some(ran) = client.log_in(&guarded.registry.host(), ALICE.0, ALICE.1) {
        ran.success();
    }
    client.pull(&reference).success();
}

#[test]
#[ignore = "needs Nix: run make test"]
fn the_wrong_protocol_gets_a_clear_answer() {
    let authority = Authority::new();
    let registry = authority.registry();
    let plain = http::get(&format!("http://{}/v2/", registry.host()));
    assert_eq!(plain.status, 400);
    let message = format!("this port speaks TLS. Fix: use https://{}", registry.host());
    assert!(plain.text().contains(&message), "{}", plain.text());

    // ctr with --plain-http is the client that does not try TLS first.
    let client = LoginClient::start("ctr", Transport::Plain);
    let reference = format!("{}:latest", registry.reference("hello"));
    let said = client.pull(&reference).failure();
    assert!(said.contains("400 Bad Request"), "{said}");
}

/// containerd speaks plain HTTP then, because the registry has a loopback address.
#[rstest]
#[ignore = "needs Nix and clients: run make test"]
fn tls_to_a_plain_port_gets_a_clear_answer(#[values("skopeo", "podman")] name: &str) {
    let registry = Registry::on_demo_set();
    let authority = Authority::new();
    let client = LoginClient::start(name, authority.transport());
    let reference = format!("{}:latest", registry.reference("hello"));
    let said = client.pull(&reference).failure();
    let expected = "server gave HTTP response to HTTPS client";
    assert!(said.contains(expected), "{said}");
}

#[test]
#[ignore = "needs Nix: run make test"]
fn the_admin_listener_has_the_pages_and_the_registry_has_images() {
    let admin_address = format!("127.0.0.1:{}", free_port());
    let options = RegistryOptions::demo()
        .env("NIXERY_ADMIN_LISTEN", &admin_address)
        .env("NIXERY_PUBLIC_PAGES", "false");
    let registry = Registry::start(options);
    let admin = |path: &str| http::get(&format!("http://{admin_address}{path}"));
    let public = |path: &str| http::get(&registry.url(path));
    assert_eq!(registry.manifest("hello").status, 200);
    let failed = registry.manifest("hello/no-such-package");
    assert_eq!(failed.status, 404, "{}", failed.text());

    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        assert_eq!(admin(path).status, 200, "{path}");
        assert_eq!(public(path).status, 404, "{path}");
    }
    let log = build_log(&http::request(&[
        "-H",
        "Accept: text/html",
        &format!("http://{admin_address}/"),
    ]));
    assert_eq!(admin(&log).status, 200, "{log}");
    assert_eq!(public(&log).status, 404, "{log}");

    let answer = admin("/v2/hello/manifests/latest");
    assert_eq!(answer.status, 404, "{}", answer.text());
    let message = "this listener has health checks, metrics and pages, but no registry";
    assert!(answer.text().contains(message), "{}", answer.text());
}

/// The path of the first log that the page links to.
#[track_caller]
fn build_log(page: &Response) -> String {
    let page = page.text();
    let at = page
        .find("/builds/")
        .unwrap_or_else(|| panic!("no log in {page}"));
    page[at..].split('"').next().expect("a link").to_owned()
}
