//! Running programs, and how much memory they take.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How often the peak of memory is read. It only grows, so that no more than the last moments are
/// missed.
const SAMPLE: Duration = Duration::from_millis(4);

/// A program that has ended well.
pub(crate) struct Ended {
    pub(crate) stdout: Vec<u8>,
    pub(crate) wall: Duration,
    /// Most memory that the program itself had at once, in kB, not counting programs it ran.
    pub(crate) peak: u64,
}

/// Runs a program to its end.
///
/// # Errors
/// It failed; what it printed is in the message.
pub(crate) fn run(command: &mut Command) -> Result<Ended> {
    let start = Instant::now();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (process, ended) = (child.id(), AtomicBool::new(false));
    let (output, wall, peak) = thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(peak_memory(process).unwrap_or(0));
                thread::sleep(SAMPLE);
            }
            peak
        });
        let output = child.wait_with_output();
        let wall = start.elapsed();
        ended.store(true, Ordering::Relaxed);
        (output, wall, peak.join().unwrap_or(0))
    });
    let output = output?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed ({}):\n{said}", output.status).into());
    }
    Ok(Ended {
        stdout: output.stdout,
        wall,
        peak,
    })
}

/// Most memory that a running process has had at once, in kB.
pub(crate) fn peak_memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().trim_end_matches(" kB").parse().ok()
}

/// A process that ends with this value.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
