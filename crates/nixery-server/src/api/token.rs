//! Issues tokens (distribution specification, "Token Authentication").

use std::collections::BTreeSet;
use std::time::SystemTime;

use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use nixery_access::{LONGEST_TOKEN_BYTES, ResourceScope};
use nixery_core::ImageName;
use serde_json::json;

use crate::access::Caller;
use crate::error::{ApiError, Code};
use crate::query;
use crate::response::{NO_STORE, page};
use crate::text::timestamp;

/// Answers a request for a token: one that allows its bearer to pull what the caller asks for, as
/// far as the caller may pull it.
///
/// # Errors
/// The server issues no tokens (404), the caller has no rights (401 or 403), or the request is for
/// another service or too many repositories (400).
pub(crate) fn token(request: &Parts, caller: &Caller<'_>) -> Result<Response, ApiError> {
    let Some((issuer, service, lifetime)) = caller.issuer() else {
        let message = "this server issues no tokens. Fix: send a user and a password instead";
        let status = StatusCode::NOT_FOUND;
        return Err(ApiError::new(status, Code::Unsupported, message));
    };
    let refused = caller.refused_to_renew();
    if let Some(refused) = refused.or_else(|| caller.refused_entirely()) {
        return Err(refused);
    }
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, Code::Unsupported, message);
    let query = request.uri.query();
    if query::value(query, "service").is_some_and(|asked| asked != service) {
        let message = format!(
            "this server issues tokens for the service `{service}` only. Fix: request one for it"
        );
        return Err(bad(message));
    }
    let scopes: Vec<_> = query::values(query, "scope").collect();
    // Forms encode a space as a plus sign, which no scope has.
    let scopes = ResourceScope::parse_list(&scopes.join(" ").replace('+', " "));
    let scopes = scopes.map_err(|error| bad(error.to_string()))?;
    let names = scopes.iter().filter_map(ResourceScope::repository_to_pull);
    let names: BTreeSet<_> = names.collect();
    let allowed = names.into_iter().filter(|name| may_pull(caller, name));
    let allowed: Vec<_> = allowed.collect();
    let now = SystemTime::now();
    let token = issuer.issue(caller.identity(), service, &allowed, lifetime, now);
    if token.len() > LONGEST_TOKEN_BYTES {
        let message = format!(
            "the token would have over {} KiB, which this server does not accept. Fix: request tokens for fewer repositories at once",
            LONGEST_TOKEN_BYTES >> 10
        );
        return Err(bad(message));
    }
    let body = json!({
        "token": token,
        // Clients of OAuth 2 read this name.
        "access_token": token,
        "expires_in": lifetime.as_secs(),
        "issued_at": timestamp(now),
    });
    let body = body.to_string();
    Ok(page(StatusCode::OK, "application/json", NO_STORE, body))
}

fn may_pull(caller: &Caller<'_>, name: &str) -> bool {
    ImageName::parse(name).is_ok_and(|name| caller.may_name(&name).is_ok())
}
