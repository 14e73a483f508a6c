//! What holds of any bytes as a request's path.

use http::Method;
use nixery_server::route::{Reference, Route};

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else {
        return;
    };
    let route = Route::parse(&Method::GET, path);
    assert_eq!(Route::parse(&Method::HEAD, path), route, "{path:?}");
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        // Whatever the path says, nothing is ever built for a push.
        assert!(Route::parse(&method, path).is_err(), "{method} {path:?}");
    }
    match route {
        Ok(route) => {
            if let Some((plain, name)) = rebuilt(&route) {
                assert!(!name.contains(".."), "{name:?}");
                assert!(Route::is_registry(path), "{path:?}");
                assert_eq!(Route::parse(&Method::GET, &plain), Ok(route), "{path:?}");
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
            assert!(message.len() < 2_000, "{message}");
        }
    }
}

/// The path of a registry route as clients write it, and the image name in it.
fn rebuilt(route: &Route) -> Option<(String, &str)> {
    let (name, rest) = match route {
        Route::Manifest { name, reference } => {
            let reference = match reference {
                Reference::Tag(tag) => tag.to_string(),
                Reference::Digest(digest) => digest.to_string(),
            };
            (name, format!("manifests/{reference}"))
        }
        Route::Blob { name, digest } => (name, format!("blobs/{digest}")),
        Route::Tags { name } => (name, "tags/list".to_owned()),
        Route::Referrers { name, digest } => (name, format!("referrers/{digest}")),
        _ => return None,
    };
    Some((format!("/v2/{name}/{rest}"), name.as_str()))
}
