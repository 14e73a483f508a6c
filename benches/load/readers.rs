//! Many clients that read slowly, and what they cost.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use crate::client;
use crate::servers::Registry;
use crate::{ACCEPT, Result};

const READERS: usize = 64;
/// Bytes each takes at once, and how often.
const SIP: usize = 8 * 1024;
const PAUSE: Duration = Duration::from_millis(125);
const LASTS: Duration = Duration::from_secs(8);

/// The most memory of the server, in kB, while they all read.
pub(crate) fn peak(registry: &Registry, path: &str) -> Result<u64> {
    let connections: Result<Vec<_>> = (0..READERS)
        .map(|_| Ok(client::ask("GET", registry.port, path, ACCEPT)?.0))
        .collect();
    let end = Instant::now() + LASTS;
    let readers: Vec<_> = connections?
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                let mut sip = [0; SIP];
                while Instant::now() < end && stream.read_exact(&mut sip).is_ok() {
                    thread::sleep(PAUSE);
                }
            })
        })
        .collect();
    let mut peak = 0;
    while Instant::now() < end {
        peak = peak.max(registry.memory()?);
        thread::sleep(PAUSE);
    }
    for reader in readers {
        reader.join().map_err(|_| "a reader panicked")?;
    }
    // What they left is closed, and freed.
    thread::sleep(Duration::from_secs(1));
    Ok(peak)
}
