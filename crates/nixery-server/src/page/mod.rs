//! The web pages: an introduction, recent builds, and the log of each build.

mod build;
mod start;

pub(crate) use build::build;
pub(crate) use start::{EXAMPLE, start};

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, REFERRER_POLICY, VARY, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use maud::{DOCTYPE, Markup, html};

use crate::error::ApiError;
use crate::response::{self, REVALIDATE};
use crate::route::{Asset, Route};

/// Allows only this server's own style, script and icon: nothing inline, no frames, no forms.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Seconds between two refreshes of a page with a running build.
const REFRESH_RUNNING: u32 = 3;
/// Seconds between two refreshes of a page without one.
const REFRESH_IDLE: u32 = 20;

/// A file that the pages refer to.
pub(crate) fn asset(asset: Asset) -> Response {
    let (media_type, text) = match asset {
        Asset::Style => ("text/css", include_str!("style.css")),
        Asset::Script => ("text/javascript", include_str!("refresh.js")),
        Asset::Icon => ("image/svg+xml", include_str!("icon.svg")),
    };
    let cache = HeaderValue::from_static("public, max-age=3600");
    response::page(StatusCode::OK, media_type, cache, text)
}

/// Whether the client is a program rather than a browser.
pub(crate) fn wants_plain(headers: &HeaderMap) -> bool {
    !headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("text/html"))
}

/// Returns a message with a capital letter and a full stop.
fn sentence(message: &str) -> String {
    let mut rest = message.chars();
    let first = rest.next().map(char::to_uppercase);
    let text: String = first.into_iter().flatten().chain(rest).collect();
    format!("{}.", text.trim_end_matches('.'))
}

/// Returns an error that concerns a path, as JSON for registry clients and programs, as a page for
/// browsers.
pub(crate) fn refusal(path: &str, headers: &HeaderMap, refused: ApiError) -> Response {
    if Route::is_registry(path) || wants_plain(headers) {
        refused.into_response()
    } else {
        error(refused)
    }
}

/// Returns a page with an error.
pub(crate) fn error(error: ApiError) -> Response {
    let title = match error.status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::UNAUTHORIZED => "Log in",
        StatusCode::FORBIDDEN => "Not allowed",
        _ => "Error",
    };
    let body = html! {
        h1 { (title) }
        p { (sentence(&error.message)) }
        p { a href="/" { "Go to the start page" } }
    };
    let mut response = page(error.status, title, None, &body);
    if let Some(challenge) = error.challenge {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Returns a complete page. After `refresh` seconds the element with the ID `live` is loaded again.
fn page(status: StatusCode, title: &str, refresh: Option<u32>, body: &Markup) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Nixery" }
                link rel="icon" href="/favicon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/style.css";
                @if let Some(seconds) = refresh {
                    script src="/refresh.js" defer data-seconds=(seconds) {}
                    noscript { meta http-equiv="refresh" content=(seconds.max(10)); }
                }
            }
            body {
                header { a href="/" class="home" { "Nixery" } }
                main { (body) }
            }
        }
    };
    let html = markup.into_string();
    let mut answer = response::page(status, "text/html; charset=utf-8", REVALIDATE, html);
    answer.headers_mut().extend([
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (VARY, HeaderValue::from(ACCEPT)),
    ]);
    answer
}
