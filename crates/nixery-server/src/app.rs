//! Answers requests.

use std::convert::Infallible;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::X_CONTENT_TYPE_OPTIONS;
use http::request::Parts;
use http::{HeaderValue, Method};
use tower::Service;

use crate::access_log::Entry;
use crate::api;
use crate::client::find_client;
use crate::error::ApiError;
use crate::health;
use crate::page;
use crate::response::{API_VERSION, without_body};
use crate::route::Route;
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
            dispatch(&state, &request, route).await
        }
        Err(error) if registry || page::wants_plain(&request.headers) => {
            ApiError::from(error).into_response()
        }
        Err(error) => page::error(ApiError::from(error)),
    };
    let headers = response.headers_mut();
    // Errors, logs and layers hold text from outside: a browser must not show them as pages.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if registry {
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    }
    if request.method == Method::HEAD {
        response = without_body(response);
    }
    entry.follow(response)
}

async fn dispatch(state: &AppState, request: &Parts, route: Route) -> Response {
    let result = match route {
        Route::Start => Ok(page::start(state, request)),
        Route::Build(id) => Ok(page::build(state, request, &id)),
        Route::Asset(asset) => Ok(page::asset(asset)),
        Route::Live => Ok(health::live()),
        Route::Ready => Ok(health::ready(state).await),
        Route::Metrics => Ok(health::metrics(state)),
        Route::ApiVersion => Ok(api::version()),
        Route::Manifest { name, reference } => {
            // The future holds a build's whole wait; on the heap it keeps the others small.
            Box::pin(api::manifest(state, request, name, reference)).await
        }
        Route::Blob { digest, .. } => Box::pin(api::blob(state, request, digest)).await,
        Route::Tags { name } => api::tags(state, request, &name),
        Route::Referrers { .. } => Ok(api::referrers(request)),
    };
    result.unwrap_or_else(IntoResponse::into_response)
}
