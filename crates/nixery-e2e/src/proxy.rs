//! A proxy that, as containerd from 2.3 on, gives up on an answer whose headers take longer than a
//! limit.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Forwards to one port of the loopback address, one request a connection; an answer that does not
/// begin in time is cut off.
#[derive(Debug)]
pub struct HeaderLimitProxy {
    port: u16,
    cut: Arc<AtomicUsize>,
}

impl HeaderLimitProxy {
    /// Starts forwarding to `target` with this limit.
    ///
    /// # Panics
    /// No port is free.
    pub fn start(target: u16, limit: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let cut = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&cut);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    if let Err(error) = forward(client, target, limit, &counter) {
                        eprintln!("proxy: {error}");
                    }
                });
            }
        });
        Self { port, cut }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many answers were cut off.
    pub fn cut_off(&self) -> usize {
        self.cut.load(Ordering::SeqCst)
    }
}

fn forward(
    mut client: TcpStream,
    target: u16,
    limit: Duration,
    cut: &AtomicUsize,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", target))?;
    // A pull sends no bodies: a request ends with its headers. `Connection: close` keeps it at one
    // per connection.
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let end = head
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .unwrap_or(0);
    server.write_all(&head[..end])?;
    server.write_all(b"\r\nConnection: close")?;
    server.write_all(&head[end..])?;
    server.set_read_timeout(Some(limit))?;
    let mut buffer = vec![0; 64 * 1024];
    let mut first = true;
    loop {
        match server.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => client.write_all(&buffer[..length])?,
            Err(error) if first => {
                cut.fetch_add(1, Ordering::SeqCst);
                client.shutdown(Shutdown::Both)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        first = false;
        server.set_read_timeout(None)?;
    }
    client.shutdown(Shutdown::Write)
}
