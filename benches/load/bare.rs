//! What a registry is measured against: hyper with nothing on top, a process of its own.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::Result;

/// The first argument of a bare server.
pub(crate) const FLAG: &str = "--bare";
/// Answers from memory.
pub(crate) const MEMORY: &str = "memory";
/// Reads the file for each answer, 256 KiB at once.
pub(crate) const FILE: &str = "file";

const CHUNK: u64 = 256 * 1024;

/// Serves a file's bytes under every path, with the headers that stand in `head`; prints its port
/// first.
pub(crate) fn serve(what: &str, file: &Path, head: &Path) -> Result<()> {
    let mut headers = HeaderMap::new();
    for line in fs::read_to_string(head)?.lines() {
        let (name, value) = line.split_once(": ").ok_or("not a header")?;
        headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let bytes = match what {
        MEMORY => Some(Bytes::from(fs::read(file)?)),
        _ => None,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(accept(headers, bytes, file.to_owned()))
}

async fn accept(headers: HeaderMap, bytes: Option<Bytes>, file: PathBuf) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (headers, bytes, file) = (headers.clone(), bytes.clone(), file.clone());
        let answer = move |_: Request<hyper::body::Incoming>| {
            let body = match &bytes {
                Some(bytes) => Ok(Full::new(bytes.clone()).map_err(infallible).boxed_unsync()),
                None => Plain::open(&file).map(BodyExt::boxed_unsync),
            };
            let headers = headers.clone();
            async move { body.map(|body| response(headers, body)) }
        };
        tokio::spawn(
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}

fn response(
    headers: HeaderMap,
    body: UnsyncBoxBody<Bytes, io::Error>,
) -> Response<UnsyncBoxBody<Bytes, io::Error>> {
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

fn infallible(never: Infallible) -> io::Error {
    match never {}
}

/// A file, read where it is sent.
struct Plain {
    file: File,
    rest: u64,
}

impl Plain {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let rest = file.metadata()?.len();
        Ok(Self { file, rest })
    }
}

impl Body for Plain {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let want = CHUNK.min(self.rest);
        let mut chunk = Vec::with_capacity(want as usize);
        if let Err(error) = (&mut self.file).take(want).read_to_end(&mut chunk) {
            return Poll::Ready(Some(Err(error)));
        }
        self.rest -= chunk.len() as u64;
        let frame = Frame::data(Bytes::from(chunk));
        Poll::Ready((want > 0).then_some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}
