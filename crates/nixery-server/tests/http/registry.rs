//! A registry on a fake Nix and a store in memory, without a network.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use nixery_builder::{Builder, BuilderConfig};
use nixery_core::{Codec, PackageSource};
use nixery_manifest::Digest;
use nixery_server::access::Access;
use nixery_server::config::HttpSettings;
#[cfg(feature = "lab")]
use nixery_server::config::Salt;
use nixery_server::{AppState, router};
use nixery_storage::{MemoryStorage, Storage};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use crate::fake_nix::FakeNix;

pub(crate) const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) struct Registry {
    pub(crate) nix: Arc<FakeNix>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) state: AppState,
    router: Router,
    _spool: TempDir,
}

impl Registry {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut BuilderConfig)) -> Self {
        let storage = Arc::new(MemoryStorage::new());
        Self::over(storage, HttpSettings::default(), change).await
    }

    /// A registry over a store that others may hold as well.
    pub(crate) async fn over(
        storage: Arc<dyn Storage>,
        settings: HttpSettings,
        change: impl FnOnce(&mut BuilderConfig),
    ) -> Self {
        let state = |builder| AppState::new(builder, settings);
        Self::serving(storage, change, state).await
    }

    /// A registry that limits who may pull what.
    pub(crate) async fn limited(
        storage: Arc<dyn Storage>,
        settings: HttpSettings,
        access: Access,
        change: impl FnOnce(&mut BuilderConfig),
    ) -> Self {
        let state = |builder| AppState::new(builder, settings).with_access(access);
        Self::serving(storage, change, state).await
    }

    /// A registry that records its pulls.
    #[cfg(feature = "lab")]
    pub(crate) async fn recording(
        storage: Arc<dyn Storage>,
        salt: Salt,
        change: impl FnOnce(&mut BuilderConfig),
    ) -> Self {
        let settings = HttpSettings::default();
        let state = |builder| AppState::recording(builder, settings, salt);
        Self::serving(storage, change, state).await
    }

    async fn serving(
        storage: Arc<dyn Storage>,
        change: impl FnOnce(&mut BuilderConfig),
        state: impl FnOnce(Builder) -> AppState,
    ) -> Self {
        let spool = tempfile::tempdir().unwrap();
        let nix = Arc::new(FakeNix::new());
        let source = PackageSource::git("https://user:hunter2@example.org/pkgs.git").unwrap();
        let mut config = BuilderConfig::new(source, spool.path());
        config.failure_ttl = Duration::ZERO;
        change(&mut config);
        let builder = Builder::new(config, nix.clone(), storage.clone())
            .await
            .unwrap();
        let state = state(builder);
        Self {
            nix,
            storage,
            router: router(state.clone()),
            state,
            _spool: spool,
        }
    }

    pub(crate) async fn zstd() -> Self {
        Self::with(|config| config.compression = Codec::Zstd).await
    }

    /// The answer, its body as it comes.
    pub(crate) async fn response(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.response(request).await.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(request(Method::GET, path, headers)).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.ask(request(Method::HEAD, path, &[])).await
    }

    /// The answer after at most ten redirects, as clients follow them, and the last path asked for.
    pub(crate) async fn follow(&self, path: &str) -> (Answer, String) {
        let mut path = path.to_owned();
        for _ in 0..=10 {
            let answer = self.get(&path).await;
            if !answer.status.is_redirection() {
                return (answer, path);
            }
            path = answer.header("location").to_owned();
        }
        panic!("more than ten redirects, the last to {path}");
    }

    /// The Docker manifest of an image.
    pub(crate) async fn manifest(&self, image: &str) -> Value {
        let answer = self.get(&format!("/v2/{image}/manifests/latest")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()
    }

    /// The digest and the bytes of the first layer of an image.
    pub(crate) async fn layer(&self, image: &str) -> (Digest, Bytes) {
        let manifest = self.manifest(image).await;
        let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
        let answer = self.get(&format!("/v2/{image}/blobs/{digest}")).await;
        assert_eq!(answer.status, StatusCode::OK);
        (digest.parse().unwrap(), answer.body)
    }
}

pub(crate) fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "registry.test:5000");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
            .to_str()
            .unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status, code and message of an error answer, its form checked.
    #[track_caller]
    pub(crate) fn error(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), "application/json");
        let json = self.json();
        let errors = json["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].as_object().unwrap().contains_key("detail"));
        let text = |field: &str| errors[0][field].as_str().unwrap().to_owned();
        (self.status.as_u16(), text("code"), text("message"))
    }
}
