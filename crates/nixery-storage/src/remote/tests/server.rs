//! A small S3 server in this process, which fails on demand.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nixery_manifest::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{RemoteLimits, RemoteStorage, S3Config, S3Credentials};

pub(super) const SECRET: &str = "a-very-secret-key";

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Answers with this status and body, and does nothing.
    Answer(u16, &'static str),
    /// Handles the request and closes the connection without an answer.
    Lost,
    /// Closes the connection and does nothing.
    Reset,
    /// Never answers.
    Silent,
    /// Sends this many bytes of the answer's body, then closes.
    Cut(usize),
    /// Sends this many bytes of the answer's body, then nothing more.
    Stall(usize),
    /// Stores or sends fewer bytes without an error.
    Shorten(usize),
}

pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    pub(super) parts: BTreeMap<u32, Vec<u8>>,
    /// `METHOD path?query` of every request.
    pub(super) log: Vec<String>,
    /// For the next requests whose line in the log contains the text.
    pub(super) faults: VecDeque<(&'static str, Fault)>,
    /// For all such requests.
    pub(super) always: Option<(&'static str, Fault)>,
    pub(super) no_bucket: bool,
    /// Ignores `If-Match`.
    pub(super) ignores_conditions: bool,
}

#[derive(Clone)]
pub(super) struct Server {
    state: Arc<Mutex<State>>,
    pub(super) endpoint: String,
}

struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: String::new(),
            body: body.into(),
        }
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Self {
            state: Arc::default(),
            endpoint: format!("http://{address}"),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move {
                    let _ = server.serve(stream).await;
                });
            }
        });
        server
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic in the server")
    }

    /// Adds faults for the next requests with this method, or this text in their line of the log.
    pub(super) fn fail(&self, which: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().map(|fault| (which, fault));
        self.state().faults.extend(faults);
    }

    pub(super) fn count(&self, method: &str) -> usize {
        self.state()
            .log
            .iter()
            .filter(|line| line.starts_with(method))
            .count()
    }

    pub(super) fn limits() -> RemoteLimits {
        RemoteLimits {
            attempts: 3,
            call_timeout: Duration::from_millis(600),
            stall_timeout: Duration::from_millis(600),
            part_size: 5 << 20,
            parts_at_once: 2,
        }
    }

    pub(super) fn config(&self) -> S3Config {
        S3Config {
            bucket: "bucket".to_owned(),
            prefix: "a/b".to_owned(),
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            credentials: Some(S3Credentials {
                access_key_id: "access".to_owned(),
                secret_access_key: SECRET.to_owned(),
                session_token: None,
            }),
            limits: Self::limits(),
            ..S3Config::default()
        }
    }

    pub(super) fn storage(&self) -> RemoteStorage {
        RemoteStorage::open_s3(self.config()).expect("a good configuration")
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await? {
            let fault = self.take_fault(&request);
            let mut request = request;
            match &fault {
                Some(Fault::Reset) => return Ok(()),
                Some(Fault::Silent) => std::future::pending().await,
                Some(Fault::Shorten(size)) if request.method == "PUT" => {
                    request.body.truncate(*size)
                }
                _ => {}
            }
            let mut reply = match &fault {
                Some(Fault::Answer(status, body)) => Reply::new(*status, *body),
                _ => self.act(&request),
            };
            if matches!(fault, Some(Fault::Lost)) {
                return Ok(());
            }
            if let (Some(Fault::Shorten(size)), "GET") = (&fault, request.method.as_str()) {
                reply.body.truncate(*size);
            }
            let length = match reply.headers.contains("content-length") {
                true => String::new(),
                false => format!("content-length: {}\r\n", reply.body.len()),
            };
            let head = format!(
                "HTTP/1.1 {} X\r\n{}{length}\r\n",
                reply.status, reply.headers
            );
            stream.write_all(head.as_bytes()).await?;
            let sent = match fault {
                Some(Fault::Cut(size) | Fault::Stall(size)) => {
                    &reply.body[..size.min(reply.body.len())]
                }
                _ if request.method == "HEAD" => &[],
                _ => &reply.body[..],
            };
            stream.write_all(sent).await?;
            match fault {
                Some(Fault::Cut(_)) => return Ok(()),
                Some(Fault::Stall(_)) => std::future::pending().await,
                _ => {}
            }
        }
        Ok(())
    }

    fn take_fault(&self, request: &Request) -> Option<Fault> {
        let mut state = self.state();
        let line = format!("{} {}?{}", request.method, request.path, request.query);
        state.log.push(line.clone());
        if let Some((which, fault)) = &state.always
            && line.contains(which)
        {
            return Some(fault.clone());
        }
        let mut faults = state.faults.iter();
        let at = faults.position(|(which, _)| line.contains(which))?;
        state.faults.remove(at).map(|(_, fault)| fault)
    }

    fn act(&self, request: &Request) -> Reply {
        let mut state = self.state();
        if state.no_bucket {
            return Reply::new(404, "<Error><Code>NoSuchBucket</Code></Error>");
        }
        let key = request
            .path
            .trim_start_matches("/bucket")
            .trim_start_matches('/')
            .to_owned();
        match (request.method.as_str(), request.query.as_str()) {
            ("GET", query) if query.contains("list-type=2") => list(&state, query),
            ("GET" | "HEAD", _) => read(&state, &key, request),
            ("POST", "uploads") | ("POST", "uploads=") => Reply::new(
                200,
                "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>",
            ),
            ("PUT", query) if query.contains("partNumber=") => {
                let number = query
                    .split(['=', '&'])
                    .nth(1)
                    .and_then(|n| n.parse().ok())
                    .expect("a part's number");
                state.parts.insert(number, request.body.clone());
                Reply {
                    headers: format!("etag: \"part{number}\"\r\n"),
                    ..Reply::new(200, "")
                }
            }
            ("POST", _) => {
                if state.parts.is_empty() {
                    return Reply::new(404, "<Error><Code>NoSuchUpload</Code></Error>");
                }
                let whole = std::mem::take(&mut state.parts)
                    .into_values()
                    .flatten()
                    .collect();
                state.objects.insert(key, whole);
                Reply::new(
                    200,
                    "<CompleteMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key><Location>l</Location><ETag>\"e\"</ETag></CompleteMultipartUploadResult>",
                )
            }
            ("PUT", _) => {
                if request.headers.contains_key("if-none-match") && state.objects.contains_key(&key)
                {
                    return Reply::new(412, "<Error><Code>PreconditionFailed</Code></Error>");
                }
                state.objects.insert(key, request.body.clone());
                Reply {
                    headers: "etag: \"put\"\r\n".to_owned(),
                    ..Reply::new(200, "")
                }
            }
            ("DELETE", query) if query.contains("uploadId") => {
                state.parts.clear();
                Reply::new(204, "")
            }
            ("DELETE", _) => {
                state.objects.remove(&key);
                Reply::new(204, "")
            }
            _ => Reply::new(501, ""),
        }
    }
}

fn read(state: &State, key: &str, request: &Request) -> Reply {
    let Some(object) = state.objects.get(key) else {
        return Reply::new(404, "<Error><Code>NoSuchKey</Code></Error>");
    };
    let etag = format!("\"{}\"", Digest::of(object).hex());
    let wanted = request.headers.get("if-match");
    if wanted.is_some_and(|wanted| *wanted != etag) && !state.ignores_conditions {
        return Reply::new(412, "<Error><Code>PreconditionFailed</Code></Error>");
    }
    let mut headers = format!("etag: {etag}\r\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    let Some(range) = request.headers.get("range") else {
        let body = object.clone();
        let _ = write!(headers, "content-length: {}\r\n", body.len());
        return Reply {
            status: 200,
            headers,
            body,
        };
    };
    let (start, end) = range
        .trim_start_matches("bytes=")
        .split_once('-')
        .expect("a range");
    let start: usize = start.parse().expect("a start");
    if start >= object.len() {
        return Reply::new(416, "<Error><Code>InvalidRange</Code></Error>");
    }
    let end = end
        .parse::<usize>()
        .map_or(object.len(), |last| (last + 1).min(object.len()));
    let _ = write!(
        headers,
        "content-range: bytes {start}-{}/{}\r\n",
        end - 1,
        object.len()
    );
    Reply {
        status: 206,
        headers,
        body: object[start..end].to_vec(),
    }
}

/// Lists in pages of two objects.
fn list(state: &State, query: &str) -> Reply {
    let parameter = |name: &str| {
        let value = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.replace("%2F", "/"))
    };
    let prefix = parameter("prefix").unwrap_or_default();
    let after = parameter("continuation-token").unwrap_or_default();
    let mut found = state
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let page: Vec<_> = found.by_ref().take(2).collect();
    let mut xml = String::from("<ListBucketResult>");
    for (key, object) in &page {
        let _ = write!(
            xml,
            "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>",
            object.len()
        );
    }
    let more = found.next().is_some();
    let _ = write!(xml, "<IsTruncated>{more}</IsTruncated>");
    if let (true, Some((last, _))) = (more, page.last()) {
        let _ = write!(xml, "<NextContinuationToken>{last}</NextContinuationToken>");
    }
    Reply::new(200, xml + "</ListBucketResult>")
}

async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<Request>> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (
        first.next().unwrap_or_default(),
        first.next().unwrap_or_default(),
    );
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .map_or(0, |n| n.parse().expect("a length"));
    let mut body = buffer.split_off(head_end + 4);
    buffer.clear();
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    *buffer = body.split_off(length);
    Ok(Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body,
    }))
}
