//! Who may pull what, as clients see it.

mod checks;
mod digests;
mod logins;
mod other_issuer;
mod pages;
mod policy;
mod quotas;
mod reload;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use nixery_server::access::Access;
use nixery_server::config::table::{HTPASSWD, POLICY, Setting, TOKEN_KEY, TOKEN_REALM, TOKENS};
use nixery_server::config::{AccessSettings, Arguments, HttpSettings};
use nixery_storage::Storage;
use tempfile::TempDir;

use crate::fake_store::FakeStore;
use crate::registry::{Answer, Registry, request};

/// The passwords of alice and bob are test vectors of Openwall's `crypt_blowfish`.
const PASSWORDS: &str = "\
    alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n\
    bob:$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK\n";
const ALICE: (&str, &str) = ("alice", "U*U");
const BOB: (&str, &str) = ("bob", "U*U*");
const CI_TOKEN: &str = "0123456789abcdef-ci";

/// Alice may pull and build everything, bob only htop.
const HTOP_FOR_BOB: &str = r#"
    [[allow]]
    who = ["alice"]
    packages = ["*"]

    [[allow]]
    who = ["bob"]
    packages = ["htop"]
"#;

/// The files of access, and the settings that name them.
struct Files {
    folder: TempDir,
    arguments: Arguments<AccessSettings>,
}

impl Files {
    /// Passwords of alice and bob, and a token of ci.
    fn with_users() -> Self {
        Self::none()
            .with(HTPASSWD, PASSWORDS)
            .with(TOKENS, &format!("ci:{CI_TOKEN}\n"))
    }

    /// Users, and a policy.
    fn with_policy(policy: &str) -> Self {
        Self::with_users().with(POLICY, policy)
    }

    /// Users who get tokens from this server, which signs them with a known key.
    fn with_own_tokens() -> Self {
        let key = include_str!("../../../../nixery-access/tests/keys/ed25519.pem");
        Self::with_users()
            .with(TOKEN_KEY, key)
            .set(TOKEN_REALM, "self")
    }

    fn none() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            arguments: Arguments::default(),
        }
    }

    fn path(&self, setting: &Setting) -> PathBuf {
        self.folder.path().join(setting.variable)
    }

    /// Writes the file of a setting.
    fn write(&self, setting: &'static Setting, text: &str) {
        std::fs::write(self.path(setting), text).unwrap();
    }

    fn with(self, setting: &'static Setting, text: &str) -> Self {
        self.write(setting, text);
        let path = self.path(setting);
        self.set(setting, path.to_str().unwrap())
    }

    fn set(mut self, setting: &'static Setting, value: &str) -> Self {
        self.arguments = self.arguments.with(setting, value);
        self
    }

    async fn access(&self) -> Access {
        let settings = self.arguments.settings().unwrap();
        Access::load(settings).await.unwrap()
    }

    async fn registry(&self) -> Registry {
        self.registry_over(Arc::new(FakeStore::default())).await
    }

    async fn registry_over(&self, storage: Arc<dyn Storage>) -> Registry {
        let settings = HttpSettings::default();
        Registry::limited(storage, settings, self.access().await, |_| {}).await
    }
}

fn basic((user, password): (&str, &str)) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Sends a request with credentials; without any if they are empty.
async fn ask(registry: &Registry, method: Method, path: &str, credentials: &str) -> Answer {
    let headers = [("authorization", credentials)];
    let headers = if credentials.is_empty() {
        &[]
    } else {
        &headers[..]
    };
    registry.ask(request(method, path, headers)).await
}

async fn get(registry: &Registry, path: &str, credentials: &str) -> Answer {
    ask(registry, Method::GET, path, credentials).await
}

/// Pulls the manifest of an image such as `git:v1`.
async fn pull(registry: &Registry, image: &str, credentials: &str) -> Answer {
    let (name, tag) = image.split_once(':').unwrap_or((image, "latest"));
    get(
        registry,
        &format!("/v2/{name}/manifests/{tag}"),
        credentials,
    )
    .await
}

/// Returns the first layer of a manifest.
fn layer(manifest: &Answer) -> String {
    assert_eq!(manifest.status, 200, "{}", manifest.text());
    let layer = &manifest.json()["layers"][0]["digest"];
    layer.as_str().unwrap().to_owned()
}

/// Waits until nothing in the background uses the store.
async fn settle(registry: &Registry, store: &FakeStore) {
    registry.state.builder().drain().await;
    for _ in 0..100 {
        let calls = store.calls();
        tokio::time::sleep(Duration::from_millis(100)).await;
        if store.calls() == calls {
            return;
        }
    }
    panic!("the store is used all the time");
}
