//! Tokens of another service, whose keys this server loads.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get as on_get;
use http::StatusCode;
use nixery_access::{Identity, Issuer};
use nixery_server::config::table::{TOKEN_ISSUER, TOKEN_KEYS, TOKEN_REALM};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Files, bearer, get, pull};
use crate::registry::Registry;

const HOUR: Duration = Duration::from_secs(3600);

/// A token service in this process: its keys can be read, and replaced.
#[derive(Clone)]
struct TokenService {
    url: String,
    /// `None`: the service fails.
    keys: Arc<Mutex<Option<String>>>,
    loads: Arc<Mutex<usize>>,
    /// How long an answer takes.
    delay: Arc<Mutex<Duration>>,
}

impl TokenService {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let service = Self {
            url,
            keys: Arc::default(),
            loads: Arc::default(),
            delay: Arc::default(),
        };
        let answering = service.clone();
        let answer = move || {
            *answering.loads.lock().unwrap() += 1;
            let keys = answering.keys.lock().unwrap().clone();
            let delay = *answering.delay.lock().unwrap();
            async move {
                tokio::time::sleep(delay).await;
                keys.ok_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        };
        let router = Router::new().route("/keys", on_get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        service
    }

    /// Publishes the key of an issuer in the place of all others.
    fn publish(&self, issuer: &Issuer) {
        *self.keys.lock().unwrap() = Some(issuer.jwks().to_owned());
    }

    async fn registry(&self) -> Registry {
        let files = Files::none()
            .set(TOKEN_REALM, "https://auth.example.org/token")
            .set(TOKEN_ISSUER, "auth")
            .set(TOKEN_KEYS, &self.url);
        files.registry().await
    }
}

fn issuer() -> Issuer {
    Issuer::generate("auth".to_owned()).unwrap()
}

fn token(issuer: &Issuer) -> String {
    let alice = Identity::user("alice");
    bearer(&issuer.issue(&alice, "nixery", &["git"], HOUR, SystemTime::now()))
}

#[tokio::test]
async fn tokens_of_another_service_are_verified_by_its_keys() {
    let (service, auth) = (TokenService::start().await, issuer());
    service.publish(&auth);
    let registry = service.registry().await;
    let refused = pull(&registry, "git", "").await;
    let challenge = "Bearer realm=\"https://auth.example.org/token\",service=\"nixery\",scope=\"repository:git:pull\"";
    assert_eq!(
        (refused.status.as_u16(), refused.header("www-authenticate")),
        (401, challenge)
    );
    assert_eq!(pull(&registry, "git", &token(&auth)).await.status, 200);
    assert_eq!(get(&registry, "/token", "").await.status, 404);
    // Without a user, a token allows what its scope has.
    let nobody = auth.issue(
        &Identity::anonymous(),
        "nixery",
        &["git"],
        HOUR,
        SystemTime::now(),
    );
    assert_eq!(get(&registry, "/v2/", &bearer(&nobody)).await.status, 200);
    assert_eq!(pull(&registry, "git", &bearer(&nobody)).await.status, 200);
    assert_eq!(pull(&registry, "htop", &bearer(&nobody)).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pull_fails_while_the_key_is_rotated() {
    let service = TokenService::start().await;
    let current = Arc::new(Mutex::new(Arc::new(issuer())));
    service.publish(&current.lock().unwrap());
    let registry = Arc::new(service.registry().await);
    let mut pulls = JoinSet::new();
    for _ in 0..20 {
        let (registry, current) = (Arc::clone(&registry), Arc::clone(&current));
        pulls.spawn(async move {
            for _ in 0..20 {
                let auth = Arc::clone(&current.lock().unwrap());
                let answer = pull(&registry, "git", &token(&auth)).await;
                // A client whose token is from before the rotation gets a new one.
                if answer.status == 401 && !Arc::ptr_eq(&auth, &current.lock().unwrap()) {
                    continue;
                }
                assert_eq!(answer.status, 200, "{}", answer.text());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let next = Arc::new(issuer());
        service.publish(&next);
        *current.lock().unwrap() = next;
    }
    while let Some(done) = pulls.join_next().await {
        done.unwrap();
    }
    let loads = *service.loads.lock().unwrap();
    assert!((2..=10).contains(&loads), "{loads} loads");
}

#[tokio::test]
async fn a_key_that_is_withdrawn_counts_no_more() {
    let (service, old, new) = (TokenService::start().await, issuer(), issuer());
    service.publish(&old);
    let registry = service.registry().await;
    let accepted = token(&old);
    assert_eq!(pull(&registry, "git", &accepted).await.status, 200);
    service.publish(&new);
    // The new key is loaded for the first token that it has signed.
    assert_eq!(pull(&registry, "git", &token(&new)).await.status, 200);
    let (status, _, message) = pull(&registry, "git", &accepted).await.error();
    assert_eq!(status, 401);
    assert!(message.contains("unknown key"), "{message}");
}

/// Tokens with unknown keys, which anybody can send, cause few loads.
#[tokio::test]
async fn unknown_keys_at_once_cause_few_loads() {
    let service = TokenService::start().await;
    service.publish(&issuer());
    let registry = service.registry().await;
    let loads = *service.loads.lock().unwrap();
    let tokens: Vec<_> = (0..50).map(|_| token(&issuer())).collect();
    let answers = tokens.iter().map(|token| pull(&registry, "git", token));
    for answer in futures::future::join_all(answers).await {
        assert_eq!(answer.status, 401);
    }
    let loads = *service.loads.lock().unwrap() - loads;
    // The second one is for tokens that came during the first one.
    assert!((1..=2).contains(&loads), "{loads} loads");
}

/// Others wait for the load that a client has caused, also if this client disconnects.
#[tokio::test]
async fn a_client_that_disconnects_does_not_end_the_load_of_keys() {
    let (service, new) = (TokenService::start().await, issuer());
    service.publish(&issuer());
    let registry = Arc::new(service.registry().await);
    // The next load begins after a pause, so that requests begin to wait before it.
    assert_eq!(pull(&registry, "git", &token(&issuer())).await.status, 401);
    let loads = *service.loads.lock().unwrap();
    service.publish(&new);
    *service.delay.lock().unwrap() = Duration::from_millis(300);
    let start = |token: String| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { pull(&registry, "git", &token).await })
    };
    let hostile = start(token(&issuer()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let other = start(token(&new));
    let began = async {
        while *service.loads.lock().unwrap() == loads {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let began = tokio::time::timeout(Duration::from_secs(30), began).await;
    began.expect("the load begins");
    hostile.abort();
    assert_eq!(other.await.unwrap().status, 200);
    assert_eq!(*service.loads.lock().unwrap(), loads + 1);
}

#[tokio::test]
async fn without_keys_tokens_are_503_until_the_service_answers() {
    let (service, auth) = (TokenService::start().await, issuer());
    let registry = service.registry().await;
    let answer = pull(&registry, "git", &token(&auth)).await;
    assert_eq!(answer.header("retry-after"), "10");
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (503, "UNAVAILABLE"));
    assert!(message.contains("cannot verify tokens now"), "{message}");
    assert_eq!(registry.nix.evaluations(), 0);
    service.publish(&auth);
    assert_eq!(pull(&registry, "git", &token(&auth)).await.status, 200);
    // The keys stay if the service fails later.
    *service.keys.lock().unwrap() = None;
    assert_eq!(pull(&registry, "git", &token(&issuer())).await.status, 401);
    assert_eq!(pull(&registry, "git", &token(&auth)).await.status, 200);
}
