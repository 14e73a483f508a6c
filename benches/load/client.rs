//! As much of an HTTP client as is needed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::Result;

/// An answer, or the head of one with a file in place of its body.
pub(crate) struct Answer {
    /// `name: value` lines, without the date.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) file: Option<PathBuf>,
}

impl Answer {
    pub(crate) fn with_file(self, file: &Path) -> Self {
        let file = Some(file.to_owned());
        Self { file, ..self }
    }
}

pub(crate) fn get(port: u16, path: &str, accept: &str) -> Result<Answer> {
    let (mut stream, headers) = ask("GET", port, path, accept)?;
    let mut body = Vec::new();
    stream.read_to_end(&mut body)?;
    Ok(Answer {
        headers,
        body,
        file: None,
    })
}

pub(crate) fn head(port: u16, path: &str, accept: &str) -> Result<Answer> {
    let (_, headers) = ask("HEAD", port, path, accept)?;
    Ok(Answer {
        headers,
        body: Vec::new(),
        file: None,
    })
}

/// Reads a blob; returns GB per second.
pub(crate) fn first_send(port: u16, path: &str) -> Result<f64> {
    let begun = Instant::now();
    let (mut stream, _) = ask("GET", port, path, "*/*")?;
    let mut bytes = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => bytes += read,
        }
    }
    Ok(bytes as f64 / 1e9 / begun.elapsed().as_secs_f64())
}

/// Asks for a path and reads the head of the answer; its body is what is left, to the connection's
/// end.
pub(crate) fn ask(
    method: &str,
    port: u16,
    path: &str,
    accept: &str,
) -> Result<(BufReader<TcpStream>, Vec<String>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    if !lines.first().is_some_and(|status| status.contains(" 200 ")) {
        return Err(format!("{path} was answered with {lines:?}").into());
    }
    let of_connection = |line: &String| line.starts_with("date") || line.starts_with("connection");
    lines.remove(0);
    lines.retain(|line| !of_connection(line));
    Ok((stream, lines))
}
