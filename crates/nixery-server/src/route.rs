//! Finds the page or registry object that a request names: a pure function of its method and path.
//!
//! Paths follow the OCI distribution specification, section "Endpoints".

use std::borrow::Cow;

use http::Method;
use nixery_core::{ImageName, NameError, Tag, TagError};
use nixery_manifest::{Digest, DigestError};
use percent_encoding::percent_decode_str;

/// The path of the token service of this server.
pub(crate) const TOKEN_PATH: &str = "/token";

/// What a request asks for. GET and HEAD share a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The start page.
    Start,
    /// The page of one build with its log, by the build's ID, which is not validated yet.
    Build(String),
    /// A file that the pages refer to.
    Asset(Asset),
    /// Whether the process is alive.
    Live,
    /// Whether it can serve and build.
    Ready,
    /// Counters for Prometheus.
    Metrics,
    /// A token for a client that has logged in.
    Token,
    /// Whether this is a registry.
    ApiVersion,
    /// A manifest, by tag or digest.
    Manifest {
        /// The image.
        name: ImageName,
        /// The tag or digest of the manifest.
        reference: Reference,
    },
    /// A blob.
    Blob {
        /// The image it is fetched for; blobs are shared, so it only has to be a valid name.
        name: ImageName,
        /// The blob.
        digest: Digest,
    },
    /// The tags of an image.
    Tags {
        /// The image.
        name: ImageName,
    },
    /// What refers to a manifest.
    Referrers {
        /// The image.
        name: ImageName,
        /// The manifest.
        digest: Digest,
    },
}

/// A manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By a tag, which may name another manifest later.
    Tag(Tag),
    /// By its digest.
    Digest(Digest),
}

/// Files of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asset {
    /// The style sheet.
    Style,
    /// The script that keeps lists and logs current.
    Script,
    /// The icon, also at the path that browsers try.
    Icon,
}

/// Why a request has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Only GET and HEAD are supported, as nothing is pushed.
    #[error(
        "{method} is not supported: images here are built from their names, and nothing can be pushed or deleted"
    )]
    Method {
        /// The method that was used.
        method: String,
    },
    /// No page and no endpoint has this path.
    #[error("there is nothing at this path")]
    NotFound,
    /// The endpoint exists in other registries.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The endpoint.
        what: &'static str,
        /// Why it cannot be here.
        reason: &'static str,
    },
    /// A percent sign that starts no escape, or an escape that a path cannot hold.
    #[error("the path is not encoded correctly: {problem}")]
    Encoding {
        /// What is wrong.
        problem: &'static str,
    },
    /// Not an image name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// Not a SHA-256 digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Route {
    /// Finds the route of a request.
    ///
    /// ```
    /// use http::Method;
    /// use nixery_server::route::{Reference, Route};
    ///
    /// let route = Route::parse(&Method::GET, "/v2/shell/git/manifests/latest")?;
    /// let Route::Manifest { name, reference: Reference::Tag(tag) } = route else { panic!() };
    /// assert_eq!(name.as_str(), "shell/git");
    /// assert!(tag.is_latest());
    /// # Ok::<(), nixery_server::route::RouteError>(())
    /// ```
    ///
    /// # Errors
    /// The method is neither GET nor HEAD, or the path names nothing that can exist.
    pub fn parse(method: &Method, path: &str) -> Result<Self, RouteError> {
        if method != Method::GET && method != Method::HEAD {
            return Err(RouteError::Method {
                method: method.as_str().chars().take(20).collect(),
            });
        }
        let segments = segments(path)?;
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        match segments.as_slice() {
            [""] => Ok(Self::Start),
            ["builds", id] => Ok(Self::Build((*id).to_owned())),
            ["style.css"] => Ok(Self::Asset(Asset::Style)),
            ["refresh.js"] => Ok(Self::Asset(Asset::Script)),
            ["favicon.svg" | "favicon.ico"] => Ok(Self::Asset(Asset::Icon)),
            ["healthz"] => Ok(Self::Live),
            ["readyz"] => Ok(Self::Ready),
            ["metrics"] => Ok(Self::Metrics),
            ["token"] => Ok(Self::Token),
            ["v2"] | ["v2", ""] => Ok(Self::ApiVersion),
            ["v2", rest @ ..] => registry(rest),
            _ => Err(RouteError::NotFound),
        }
    }

    /// Whether this is an endpoint of the registry, rather than a page or an endpoint for programs
    /// that monitor the server.
    #[must_use]
    pub const fn belongs_to_registry(&self) -> bool {
        match self {
            Self::Token
            | Self::ApiVersion
            | Self::Manifest { .. }
            | Self::Blob { .. }
            | Self::Tags { .. }
            | Self::Referrers { .. } => true,
            Self::Start
            | Self::Build(_)
            | Self::Asset(_)
            | Self::Live
            | Self::Ready
            | Self::Metrics => false,
        }
    }

    /// Whether errors of this path are for registry clients, who expect JSON.
    #[must_use]
    pub fn is_registry(path: &str) -> bool {
        path == "/v2" || path.starts_with("/v2/") || path == TOKEN_PATH
    }
}

/// Routes the part of a path after `/v2/`. The endpoint is recognised from the end, as names may
/// hold its words.
fn registry(segments: &[&str]) -> Result<Route, RouteError> {
    match segments {
        [name @ .., "manifests", reference] => {
            let name = image(name)?;
            // Only digests have colons, so a malformed digest is reported as one.
            let reference = if reference.contains(':') {
                Reference::Digest(reference.parse()?)
            } else {
                Reference::Tag(Tag::parse(reference)?)
            };
            Ok(Route::Manifest { name, reference })
        }
        [.., "blobs", "uploads"] | [.., "blobs", "uploads", _] => Err(RouteError::Unsupported {
            what: "uploading",
            reason: "images here are built from their names, and nothing can be pushed",
        }),
        [name @ .., "blobs", digest] => Ok(Route::Blob {
            name: image(name)?,
            digest: digest.parse()?,
        }),
        [name @ .., "tags", "list"] => Ok(Route::Tags { name: image(name)? }),
        [name @ .., "referrers", digest] => Ok(Route::Referrers {
            name: image(name)?,
            digest: digest.parse()?,
        }),
        ["_catalog"] => Err(RouteError::Unsupported {
            what: "the catalogue",
            reason: "every set of packages is an image",
        }),
        _ => Err(RouteError::NotFound),
    }
}

fn image(components: &[&str]) -> Result<ImageName, RouteError> {
    Ok(ImageName::parse(&components.join("/"))?)
}

/// Returns the decoded segments of an absolute path.
fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, RouteError> {
    let path = path.strip_prefix('/').ok_or(RouteError::NotFound)?;
    path.split('/').map(decode).collect()
}

/// Decodes one segment (RFC 3986, section 2.1). Refuses what no name can hold: encoded slashes,
/// which intermediaries treat differently, control characters, and text that is not UTF-8.
fn decode(segment: &str) -> Result<Cow<'_, str>, RouteError> {
    let error = |problem| RouteError::Encoding { problem };
    if !segment
        .bytes()
        .any(|byte| byte == b'%' || byte.is_ascii_control())
    {
        return Ok(Cow::Borrowed(segment));
    }
    // The library keeps a percent sign that starts no escape.
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !segment.split('%').skip(1).all(is_escape) {
        return Err(error(
            "a percent sign needs two hexadecimal digits after it",
        ));
    }
    let text = percent_decode_str(segment).decode_utf8();
    let text = text.map_err(|_| error("it is not UTF-8"))?;
    if text.contains('/') {
        return Err(error("it has an encoded slash"));
    }
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(error("it has a control character"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn get(path: &str) -> Result<Route, RouteError> {
        Route::parse(&Method::GET, path)
    }

    fn name(text: &str) -> ImageName {
        ImageName::parse(text).unwrap()
    }

    #[rstest]
    #[case("/", Route::Start)]
    #[case("/v2", Route::ApiVersion)]
    #[case("/v2/", Route::ApiVersion)]
    #[case("/healthz", Route::Live)]
    #[case("/readyz", Route::Ready)]
    #[case("/metrics", Route::Metrics)]
    #[case("/favicon.ico", Route::Asset(Asset::Icon))]
    #[case("/builds/0123", Route::Build("0123".into()))]
    #[case("/v2/hello/manifests/latest", Route::Manifest { name: name("hello"), reference: Reference::Tag(Tag::latest()) })]
    #[case("/v2/shell/git/htop/manifests/v1.2", Route::Manifest { name: name("shell/git/htop"), reference: Reference::Tag(Tag::parse("v1.2").unwrap()) })]
    #[case("/v2/hello/manifests/%6Catest", Route::Manifest { name: name("hello"), reference: Reference::Tag(Tag::latest()) })]
    #[case::names_may_hold_the_endpoints_words("/v2/manifests/tags/manifests/latest", Route::Manifest { name: name("manifests/tags"), reference: Reference::Tag(Tag::latest()) })]
    #[case::a_package_called_list("/v2/tags/list/tags/list", Route::Tags { name: name("tags/list") })]
    fn paths_name_routes(#[case] path: &str, #[case] expected: Route) {
        assert_eq!(get(path), Ok(expected.clone()));
        assert_eq!(Route::parse(&Method::HEAD, path), Ok(expected));
    }

    #[rstest]
    #[case::plain(DIGEST.to_owned())]
    #[case::encoded(DIGEST.replace(':', "%3A"))]
    fn digests_are_read_encoded_or_not(#[case] digest: String) {
        let digest_value: Digest = DIGEST.parse().unwrap();
        let name = name("a/b");
        let cases = [
            (
                format!("/v2/a/b/manifests/{digest}"),
                Route::Manifest {
                    name: name.clone(),
                    reference: Reference::Digest(digest_value),
                },
            ),
            (
                format!("/v2/a/b/blobs/{digest}"),
                Route::Blob {
                    name: name.clone(),
                    digest: digest_value,
                },
            ),
            (
                format!("/v2/a/b/referrers/{digest}"),
                Route::Referrers {
                    name,
                    digest: digest_value,
                },
            ),
        ];
        for (path, expected) in cases {
            assert_eq!(get(&path), Ok(expected));
        }
    }

    #[rstest]
    #[case::no_such_page("/nothing", "there is nothing at this path")]
    #[case::trailing_slash("/metrics/", "there is nothing at this path")]
    #[case::star("*", "there is nothing at this path")]
    #[case::empty("", "there is nothing at this path")]
    #[case::v1("/v1/_ping", "there is nothing at this path")]
    #[case::catalogue("/v2/_catalog", "the catalogue is not supported")]
    #[case::upload("/v2/a/blobs/uploads/1", "uploading is not supported")]
    #[case::upload_with_slash("/v2/a/blobs/uploads/", "uploading is not supported")]
    #[case::no_name("/v2/manifests/latest", "empty")]
    #[case::capital("/v2/Hello/manifests/latest", "capital letter")]
    #[case::empty_component("/v2/a//b/manifests/latest", "component 2")]
    #[case::dots("/v2/../manifests/latest", "component 1")]
    #[case::encoded_slash("/v2/a%2fb/manifests/latest", "an encoded slash")]
    #[case::half_an_escape("/v2/a/manifests/%4", "two hexadecimal digits")]
    #[case::no_escape("/v2/a/manifests/%zz", "two hexadecimal digits")]
    #[case::signs_are_no_digits("/v2/a/manifests/%+1", "two hexadecimal digits")]
    #[case::nul("/v2/a/manifests/%00", "a control character")]
    #[case::not_utf8("/v2/a/manifests/%ff", "not UTF-8")]
    #[case::tag("/v2/a/manifests/-x", "tag")]
    #[case::algorithm("/v2/a/manifests/sha512:00", "sha512")]
    #[case::short_digest("/v2/a/blobs/sha256:00", "sha256")]
    fn other_paths_say_what_is_wrong(#[case] path: &str, #[case] expected: &str) {
        let message = get(path).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[rstest]
    #[case(Method::POST)]
    #[case(Method::PUT)]
    #[case(Method::PATCH)]
    #[case(Method::DELETE)]
    #[case(Method::OPTIONS)]
    fn other_methods_name_nothing(#[case] method: Method) {
        assert!(matches!(
            Route::parse(&method, "/v2/hello/manifests/latest"),
            Err(RouteError::Method { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_path_gets_an_answer(path in "(/v2/)?[ -~]{0,80}") {
            let _ = get(&path);
        }

        #[test]
        fn a_valid_reference_comes_back(
            components in proptest::collection::vec("[a-z0-9]{1,8}", 1..5),
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let path = format!("/v2/{}/manifests/{tag}", components.join("/"));
            if let Ok(name) = ImageName::parse(&components.join("/")) {
                let reference = Reference::Tag(Tag::parse(&tag).unwrap());
                prop_assert_eq!(get(&path), Ok(Route::Manifest { name, reference }));
            }
        }
    }
}
