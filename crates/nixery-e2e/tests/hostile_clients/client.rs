//! An HTTP/1.1 client that can choose its address, its speed and every byte of its requests.

use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a client waits for an answer. Nothing here takes that long on a server that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// More than the head of any answer.
const MOST_HEAD: u64 = 256 * 1024;

/// An answer with its whole body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A connection that takes one request after the other.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    /// Whether the server takes another request on it.
    pub(crate) open: bool,
}

impl Connection {
    /// Connects from an address.
    pub(crate) async fn open(from: Ipv4Addr, port: u16) -> Result<Self> {
        Self::with_buffer(from, port, None).await
    }

    /// The same with a small buffer in the kernel, so that a slow reader is slow for the server.
    pub(crate) async fn with_buffer(from: Ipv4Addr, port: u16, bytes: Option<u32>) -> Result<Self> {
        let stream = connect(from, port, bytes).await?;
        let stream = BufReader::with_capacity(8 * 1024, stream);
        Ok(Self { stream, open: true })
    }

    /// Sends the bytes of a request and reads the whole answer. `body` says whether the request
    /// allows the answer a body.
    pub(crate) async fn ask(&mut self, request: &[u8], body: bool) -> Result<Answer> {
        let exchange = async {
            self.send(request).await?;
            let mut answer = self.head().await?;
            if body {
                answer.body = self.body(&answer).await?;
            }
            self.open &= answer.header("connection") != Some("close");
            Ok(answer)
        };
        let answer = timeout(PATIENCE, exchange).await;
        answer.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads the head of an answer, interim ones skipped.
    pub(crate) async fn head(&mut self) -> Result<Answer> {
        loop {
            let status = self.line().await?;
            let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status = status.ok_or_else(|| Error::from(ErrorKind::InvalidData))?;
            let mut headers = Vec::new();
            loop {
                let line = self.line().await?;
                let Some((name, value)) = line.split_once(':') else {
                    break;
                };
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            if status >= 200 {
                let body = Vec::new();
                return Ok(Answer {
                    status,
                    headers,
                    body,
                });
            }
        }
    }

    /// Reads a part of a body; 0 bytes are its end.
    pub(crate) async fn sip(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.stream.read(buffer).await
    }

    async fn body(&mut self, answer: &Answer) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        if matches!(answer.status, 204 | 304) {
            return Ok(body);
        }
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().map_err(|_| ErrorKind::InvalidData)?;
            body.resize(length, 0);
            self.stream.read_exact(&mut body).await?;
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let size = self.line().await?;
                let size = usize::from_str_radix(&size, 16).map_err(|_| ErrorKind::InvalidData)?;
                let start = body.len();
                body.resize(start + size, 0);
                self.stream.read_exact(&mut body[start..]).await?;
                self.line().await?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.open = false;
            self.stream.read_to_end(&mut body).await?;
        }
        Ok(body)
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(MOST_HEAD);
        limited.read_until(b'\n', &mut line).await?;
        if !line.ends_with(b"\n") {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

/// Opens a connection from an address.
pub(crate) async fn connect(
    from: Ipv4Addr,
    port: u16,
    receive_buffer: Option<u32>,
) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    // Otherwise no server could listen on the ports of these connections for a minute afterwards.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let connected = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let connected = timeout(PATIENCE, connected).await;
    connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// The bytes of a plain GET.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: registry.test\r\n\r\n").into_bytes()
}
