//! The challenge of an answer 401: how a client can log in (RFC 9110, section 11.6.1).

use http::request::Parts;
use nixery_access::ResourceScope;

use crate::config::{AccessSettings, HttpSettings, TokenRealm};
use crate::host::absolute;
use crate::route::{Route, TOKEN_PATH};

/// Asks for a user and a password.
const BASIC: &str = "Basic realm=\"Nixery\", charset=\"UTF-8\"";

/// Why a token is not enough, as RFC 6750, section 3.1, names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenProblem {
    /// It is wrong, or has expired.
    Invalid,
    /// It is for another repository.
    InsufficientScope,
}

/// Returns the challenge for a request, or `None` where nobody can log in. A problem comes with its
/// description, because Docker prints that instead of the body.
pub(super) fn challenge(
    settings: &AccessSettings,
    http: &HttpSettings,
    request: &Parts,
    scope: Option<&str>,
    problem: Option<(TokenProblem, &str)>,
) -> Option<String> {
    let path = request.uri.path();
    // Browsers have no tokens, and a token does not help to get a token.
    let uses_tokens = Route::is_registry(path) && path != TOKEN_PATH;
    let Some(tokens) = settings.token_service.as_ref().filter(|_| uses_tokens) else {
        return settings.has_passwords().then(|| BASIC.to_owned());
    };
    let realm = match &tokens.realm {
        TokenRealm::Own { .. } => absolute(http, request, TOKEN_PATH),
        TokenRealm::Other { url, .. } => url.clone(),
    };
    // The parameters as the distribution specification writes them, without spaces.
    let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{}\"", tokens.service);
    if let Some(repository) = scope {
        challenge += &format!(",scope=\"{}\"", ResourceScope::pull(repository));
    }
    if let Some((problem, description)) = problem {
        let error = match problem {
            TokenProblem::Invalid => "invalid_token",
            TokenProblem::InsufficientScope => "insufficient_scope",
        };
        let description: String = description.chars().map(in_description).collect();
        challenge += &format!(",error=\"{error}\",error_description=\"{description}\"");
    }
    Some(challenge)
}

/// Returns a character of a description, or a similar one where RFC 6750, section 3, does not allow
/// it.
fn in_description(c: char) -> char {
    match c {
        '"' => '\'',
        '\\' => '/',
        ' '..='~' => c,
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_has_no_characters_that_end_it() {
        let description: String = "the key `a\" \\b` of ü\n"
            .chars()
            .map(in_description)
            .collect();
        assert_eq!(description, "the key `a' /b` of ??");
    }
}
