//! Random requests, decided by a seed: sensible ones, slightly wrong ones, and noise.

use fastrand::Rng;

/// One request: its bytes, and whether its answer may have a body.
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: bool,
}

/// What the requests are about.
pub(crate) struct Subject {
    /// The image that is cached.
    pub(crate) image: String,
    /// The digest of its manifest.
    pub(crate) manifest: String,
    /// The digests of its small blobs, and those of its other ones, which need a place among the
    /// downloads.
    pub(crate) small: Vec<String>,
    pub(crate) large: Vec<String>,
}

const ACCEPTS: [&str; 6] = [
    "*/*",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json, application/json;q=0.5",
    "text/html;q=nonsense, ;;;,",
    "",
];
const RANGES: [&str; 8] = [
    "bytes=0-0",
    "bytes=5-",
    "bytes=-7",
    "bytes=1-4,9-12,3-5",
    "bytes=99999999999999-",
    "bytes=18446744073709551616-1",
    "bytes=9-3",
    "lines=1-2",
];
const METHODS: [&str; 8] = [
    "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW",
];
/// Parts that names and paths have trouble with.
const PIECES: [&str; 16] = [
    "..",
    ".",
    "//",
    "%2e%2e",
    "%00",
    "%zz",
    "%",
    "?",
    "#",
    "a%2Fb",
    "\u{e9}",
    "~",
    "_",
    "sha256:",
    "/v2/",
    "blobs/uploads/",
];

/// The next request of the seed.
pub(crate) fn random(rng: &mut Rng, subject: &Subject) -> Request {
    match rng.u32(0..100) {
        0..20 => tagged(rng, subject),
        20..40 => blob(rng, subject),
        40..50 => by_digest(rng, subject),
        50..65 => mutated(rng, subject),
        65..75 => page(rng),
        75..83 => method(rng, subject),
        83..93 => headers(rng, subject),
        93..96 => noise(rng),
        _ => unknown(rng),
    }
}

fn request(method: &str, path: &str, headers: &str) -> Request {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: registry.test\r\n{headers}\r\n");
    Request {
        bytes: head.into_bytes(),
        body: method != "HEAD",
    }
}

fn get_or_head(rng: &mut Rng) -> &'static str {
    if rng.u8(0..4) == 0 { "HEAD" } else { "GET" }
}

fn pick<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(0..of.len())]
}

/// A blob, seldom a large one: there are many slow readers of large ones to wait for.
fn digest<'a>(rng: &mut Rng, subject: &'a Subject) -> &'a str {
    let blobs = if rng.u8(0..20) == 0 {
        &subject.large
    } else {
        &subject.small
    };
    &blobs[rng.usize(0..blobs.len())]
}

fn blob_path(rng: &mut Rng, subject: &Subject) -> String {
    format!("/v2/{}/blobs/{}", subject.image, digest(rng, subject))
}

/// The cached image by its tag, with any `Accept`, and conditionally.
fn tagged(rng: &mut Rng, subject: &Subject) -> Request {
    let mut headers = format!("Accept: {}\r\n", pick(rng, &ACCEPTS));
    if rng.bool() {
        let tag = if rng.bool() { &subject.manifest } else { "*" };
        headers.push_str(&format!("If-None-Match: \"{tag}\"\r\n"));
    }
    let path = format!("/v2/{}/manifests/latest", subject.image);
    request(get_or_head(rng), &path, &headers)
}

/// A part of a blob, all of it now and then, or none.
fn blob(rng: &mut Rng, subject: &Subject) -> Request {
    let path = blob_path(rng, subject);
    let method = get_or_head(rng);
    let headers = match rng.u32(0..20) {
        0 => String::new(),
        1..4 => format!(
            "If-None-Match: \"{}\"\r\n",
            path.rsplit('/').next().unwrap_or("")
        ),
        _ => format!("Range: {}\r\n", pick(rng, &RANGES)),
    };
    request(method, &path, &headers)
}

/// Digests as manifests: the right one, layers, malformed and unknown ones.
fn by_digest(rng: &mut Rng, subject: &Subject) -> Request {
    let digest = match rng.u32(0..6) {
        0 => subject.manifest.clone(),
        1..4 => subject.large[rng.usize(0..subject.large.len())].clone(),
        4 => format!("sha256:{:064x}", rng.u128(..)),
        _ => "sha512:00".to_owned(),
    };
    let what = pick(rng, &["manifests", "manifests", "blobs", "referrers"]);
    let path = format!("/v2/{}/{what}/{digest}", subject.image);
    // Whole layers are not read as blobs here.
    let method = if what == "blobs" { "HEAD" } else { "GET" };
    request(method, &path, "")
}

/// A sensible path with a piece too many, or with changed or repeated characters.
fn mutated(rng: &mut Rng, subject: &Subject) -> Request {
    let mut path = match rng.u32(0..3) {
        0 => format!("/v2/{}/manifests/latest", subject.image),
        1 => format!("/v2/{}/tags/list?n=5&last=x", subject.image),
        _ => blob_path(rng, subject),
    };
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(0..=path.len());
        match rng.u32(0..4) {
            _ if !path.is_char_boundary(at) => {}
            0 => path.insert_str(at, pick(rng, &PIECES)),
            1 => path.insert(at, char::from(rng.u8(0x21..0x7f))),
            2 => path.truncate(at),
            _ => path.insert_str(at, &"x/".repeat(rng.usize(1..2_000))),
        }
    }
    let path = if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    };
    // Not every mutation leaves the cached image alone: an unknown package would be looked up.
    let path = path.replace("/manifests/", "/manifests/sha256:");
    request("GET", &path, "")
}

fn page(rng: &mut Rng) -> Request {
    let id = format!("/builds/{:x}", rng.u64(..));
    let pages = [
        "/",
        "/healthz",
        "/metrics",
        "/v2/",
        "/v2/_catalog",
        "/favicon.ico",
        "/no/such/page",
        id.as_str(),
    ];
    let path = pages[rng.usize(0..pages.len())];
    request(get_or_head(rng), path, "")
}

/// Methods that nothing here has, with and without a body.
fn method(rng: &mut Rng, subject: &Subject) -> Request {
    let path = blob_path(rng, subject);
    let method = pick(rng, &METHODS);
    let body = "x".repeat(rng.usize(0..2_000));
    let mut asked = match rng.u32(0..3) {
        0 => request(method, &path, ""),
        1 => request(
            method,
            &path,
            &format!("Content-Length: {}\r\n", body.len()),
        ),
        _ => request(method, &path, "Transfer-Encoding: chunked\r\n"),
    };
    let head = String::from_utf8_lossy(&asked.bytes).into_owned();
    if head.contains("Content-Length") {
        asked.bytes.extend_from_slice(body.as_bytes());
    } else if head.contains("chunked") {
        asked.bytes.extend_from_slice(b"3\r\nabc\r\n0\r\n\r\n");
    }
    asked
}

/// The cached image with headers that are false, wrong or far too long.
fn headers(rng: &mut Rng, subject: &Subject) -> Request {
    let path = format!("/v2/{}/manifests/latest", subject.image);
    let octet = rng.u8(..);
    let headers = match rng.u32(0..6) {
        0 => format!("X-Forwarded-For: 203.0.113.{octet}, unknown, {octet}::\r\n"),
        1 => format!("Forwarded: for=\"[2001:db8::{octet:x}]:99\";proto=x, for=_hidden\r\n"),
        2 => "X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a b\r\n".to_owned(),
        3 => format!("X-Noise: {}\r\n", "n".repeat(rng.usize(0..100_000))),
        4 => "X-Many: 1\r\n".repeat(rng.usize(1..200)),
        _ => "If-Modified-Since: yesterday\r\nExpect: 100-continue\r\n".to_owned(),
    };
    request("GET", &path, &headers)
}

/// Bytes that are no request.
fn noise(rng: &mut Rng) -> Request {
    let bytes = (0..rng.usize(1..500)).map(|_| rng.u8(..));
    let bytes = bytes.chain(*b"\r\n\r\n").collect();
    Request { bytes, body: true }
}

/// An image that does not exist; seldom enough that evaluations are not what the time goes to.
fn unknown(rng: &mut Rng) -> Request {
    let name = match rng.u32(0..50) {
        0 => format!("no-such-package-{:x}", rng.u64(..)),
        _ => "no-such-package".to_owned(),
    };
    request("GET", &format!("/v2/{name}/manifests/latest"), "")
}
