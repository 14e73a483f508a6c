//! Answers requests.

use std::convert::Infallible;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use tower::Service;

use crate::access::Caller;
use crate::access_log::Entry;
use crate::api;
use crate::arrival::{Arrival, ListenerRole};
use crate::client::find_client;
use crate::config::HttpSettings;
use crate::config::table::PORT;
use crate::error::{ApiError, Code};
use crate::health;
use crate::host::registry_origin;
use crate::page;
use crate::response::{API_VERSION, private, without_body};
use crate::route::{Route, RouteError};
use crate::state::AppState;

/// The registry as an axum router, to be served or nested into a larger server at its root.
///
/// [`Route::parse`] does all routing: image names have slashes, which path patterns cannot express.
pub fn router(state: AppState) -> Router {
    Router::new().fallback_service(service(state))
}

/// The registry as a plain service, for the server itself.
pub(crate) fn service(
    state: AppState,
) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + Sync
{
    tower::service_fn(move |request| {
        let answer = answer(state.clone(), request);
        async { Ok(answer.await) }
    })
}

async fn answer(state: AppState, request: Request) -> Response {
    let (mut request, _body) = request.into_parts();
    find_client(&state.settings().trusted_proxies, &mut request);
    let mut entry = Entry::new(&state, &request);
    let registry = Route::is_registry(request.uri.path());
    let mut response = match find_route(state.settings(), &request) {
        Ok(route) => {
            entry.set_route(&route);
            match answer_anybody(&state, &route).await {
                Some(response) => response,
                None => answer_caller(&state, &request, route, &mut entry).await,
            }
        }
        Err(error) => page::refusal(request.uri.path(), &request.headers, error),
    };
    let headers = response.headers_mut();
    // Errors, logs and layers hold text from outside: a browser must not show them as pages.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if registry {
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    }
    if state.access().is_limited()
        && let Some(cache) = headers.get(CACHE_CONTROL).and_then(private)
    {
        headers.insert(CACHE_CONTROL, cache);
    }
    if request.method == Method::HEAD {
        response = without_body(response);
    }
    entry.follow(response)
}

/// Returns the route of a request, if the listener that accepted it serves that route.
fn find_route(settings: &HttpSettings, request: &Parts) -> Result<Route, ApiError> {
    let path = request.uri.path();
    let route = Route::parse(&request.method, path);
    let role = Arrival::of(request).role;
    if role.serves(settings.public_pages, path, &route) {
        return Ok(route?);
    }
    Err(match role {
        ListenerRole::Public => RouteError::NotFound.into(),
        ListenerRole::Admin => {
            let registry = registry_origin(settings, request)
                .unwrap_or_else(|| format!("the port that {PORT} sets"));
            let message = format!(
                "this listener has health checks, metrics and pages, but no registry. Fix: use {registry}"
            );
            ApiError::new(StatusCode::NOT_FOUND, Code::Unsupported, message)
        }
    })
}

/// Answers what needs no login, whoever sends the request.
async fn answer_anybody(state: &AppState, route: &Route) -> Option<Response> {
    match route {
        Route::Asset(asset) => Some(page::asset(*asset)),
        Route::Live => Some(health::live()),
        Route::Ready => Some(health::ready(state).await),
        Route::Metrics => Some(health::metrics(state)),
        _ => None,
    }
}

/// Finds out who sends a request, and answers it.
async fn answer_caller(
    state: &AppState,
    request: &Parts,
    route: Route,
    entry: &mut Entry,
) -> Response {
    let (builder, settings) = (state.builder(), state.settings());
    let result = match state.access().caller(builder, settings, request).await {
        Ok(caller) => {
            entry.set_user(caller.user());
            dispatch(state, request, &caller, route).await
        }
        Err(error) => Err(error),
    };
    result.unwrap_or_else(|error| page::refusal(request.uri.path(), &request.headers, error))
}

async fn dispatch(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    route: Route,
) -> Result<Response, ApiError> {
    match route {
        Route::Start => page::start(state, request, caller),
        Route::Build(id) => page::build(state, request, caller, &id),
        Route::Token => api::token(request, caller),
        Route::ApiVersion => api::version(caller),
        Route::Manifest { name, reference } => {
            // The future holds a build's whole wait; on the heap it keeps the others small.
            Box::pin(api::manifest(state, request, caller, name, reference)).await
        }
        Route::Blob { name, digest } => {
            Box::pin(api::blob(state, request, caller, &name, digest)).await
        }
        Route::Tags { name } => api::tags(state, request, caller, &name).await,
        Route::Referrers { name, .. } => api::referrers(request, caller, &name),
        // They are answered to anybody.
        Route::Asset(_) | Route::Live | Route::Ready | Route::Metrics => {
            Err(RouteError::NotFound.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_listener_names_the_registry() {
        let arrival = Arrival {
            role: ListenerRole::Admin,
            registry_tls: true,
            registry_port: Some(8443),
        };
        let request = http::Request::get("/v2/").header("host", "10.0.0.1:9090");
        let request = request.extension(arrival).body(()).unwrap();
        let error = find_route(&HttpSettings::default(), &request.into_parts().0).unwrap_err();
        assert_eq!(error.status, StatusCode::NOT_FOUND);
        let message = error.message;
        assert!(message.ends_with("use https://10.0.0.1:8443"), "{message}");
    }
}
