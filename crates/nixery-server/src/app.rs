//! Answers requests.

use std::convert::Infallible;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method};
use tower::Service;

use crate::access::Caller;
use crate::access_log::Entry;
use crate::api;
use crate::client::find_client;
use crate::error::ApiError;
use crate::health;
use crate::page;
use crate::response::{API_VERSION, IMMUTABLE, PRIVATE_IMMUTABLE, without_body};
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
    let mut response = match Route::parse(&request.method, request.uri.path()) {
        Ok(route) => {
            entry.set_route(&route);
            match answer_anybody(&state, &route).await {
                Some(response) => response,
                None => answer_caller(&state, &request, route, &mut entry).await,
            }
        }
        Err(error) => error_response(&request, error.into()),
    };
    let headers = response.headers_mut();
    // Errors, logs and layers hold text from outside: a browser must not show them as pages.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if registry {
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    }
    if state.access().is_limited() && headers.get(CACHE_CONTROL) == Some(&IMMUTABLE) {
        headers.insert(CACHE_CONTROL, PRIVATE_IMMUTABLE);
    }
    if request.method == Method::HEAD {
        response = without_body(response);
    }
    entry.follow(response)
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
    result.unwrap_or_else(|error| error_response(request, error))
}

/// Returns an error as JSON for programs, or as a page.
fn error_response(request: &Parts, error: ApiError) -> Response {
    if Route::is_registry(request.uri.path()) || page::wants_plain(&request.headers) {
        error.into_response()
    } else {
        page::error(error)
    }
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
        Route::Tags { name } => api::tags(state, request, caller, &name),
        Route::Referrers { name, .. } => api::referrers(request, caller, &name),
        // They are answered to anybody.
        Route::Asset(_) | Route::Live | Route::Ready | Route::Metrics => {
            Err(RouteError::NotFound.into())
        }
    }
}
