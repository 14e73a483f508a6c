//! A queue that writes many log lines with one system call.
//!
//! A write for each request takes a tenth of the time of answering it from memory. So a thread of
//! its own writes the lines that have gathered for at most [`PAUSE`]; the first line after a
//! silence is written at once. No line is dropped: when the reader is slow, callers block, as with
//! plain writes. A crash loses the lines of the last [`PAUSE`].
//!
//! `tracing-appender` has such a queue, too. It bounds the number of lines and not their bytes,
//! which paths of 64 KB would multiply, and loses lines that are logged after its guard is dropped.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two writes.
const PAUSE: Duration = Duration::from_millis(5);
/// Limit of bytes in the queue; callers block when it is reached.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;
/// Time limit for writing the last lines when the program ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A writer of log lines; clones share one queue.
#[derive(Clone)]
pub(crate) struct LogQueue(Arc<Queue>);

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    out: Mutex<Box<dyn Write + Send>>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether callers write by themselves, because the thread may end before it does.
    direct: bool,
    waiting: Vec<u8>,
    /// Whether the thread sleeps until there is a line.
    idle: bool,
    writing: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, lines: &[u8]) -> io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(lines)?;
        out.flush()
    }

    fn write_out(&self) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.state();
            while state.waiting.is_empty() {
                state.idle = true;
                state = self.wait(state);
            }
            state.idle = false;
            state.writing = true;
            std::mem::swap(&mut state.waiting, &mut lines);
            drop(state);
            // Blocked callers have room now.
            self.changed.notify_all();
            // There is no place to report a failure to.
            let _ = self.write(&lines);
            lines.clear();
            self.state().writing = false;
            self.changed.notify_all();
            thread::sleep(PAUSE);
        }
    }
}

impl LogQueue {
    /// Starts the writing thread, which ends with the program.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
            out: Mutex::new(Box::new(out)),
        });
        let own = Arc::clone(&queue);
        let name = "log".to_owned();
        thread::Builder::new()
            .name(name)
            .spawn(move || own.write_out())?;
        Ok(Self(queue))
    }

    /// Waits until all lines are written, at most for [`DRAIN_TIMEOUT`]. After that, callers write
    /// their lines by themselves: nothing waits for the thread any more when the last tasks of the
    /// program log.
    pub(crate) fn drain(&self) {
        let end = Instant::now() + DRAIN_TIMEOUT;
        let mut state = self.0.state();
        while !state.waiting.is_empty() || state.writing {
            let Some(rest) = end.checked_duration_since(Instant::now()) else {
                return;
            };
            let waited = self.0.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        // Not after the time-out: callers would block on a reader that reads nothing, and the
        // program would not end.
        state.direct = true;
    }
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        while state.waiting.len() >= MAX_QUEUED_BYTES {
            state = self.0.wait(state);
        }
        if state.direct {
            drop(state);
            return self.0.write(line).map(|()| line.len());
        }
        state.waiting.extend_from_slice(line);
        if state.idle {
            state.idle = false;
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Stores what is written, after a message from the test if there is a channel for one.
    struct Sink {
        written: Arc<Mutex<Vec<u8>>>,
        /// Threads that wrote.
        writers: Arc<Mutex<Vec<thread::ThreadId>>>,
        go: Option<mpsc::Receiver<()>>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(go) = &self.go {
                let _ = go.recv();
            }
            self.writers.lock().unwrap().push(thread::current().id());
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(go: Option<mpsc::Receiver<()>>) -> (LogQueue, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::default();
        let sink = Sink {
            written: Arc::clone(&written),
            writers: Arc::default(),
            go,
        };
        (LogQueue::start(sink).unwrap(), written)
    }

    #[test]
    fn all_lines_arrive_whole() {
        let (queue, written) = queue(None);
        thread::scope(|scope| {
            for writer in 0..4 {
                let mut queue = queue.clone();
                scope.spawn(move || {
                    for line in 0..500 {
                        queue
                            .write_all(format!("{writer} {line}\n").as_bytes())
                            .unwrap();
                    }
                });
            }
        });
        queue.drain();
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        for writer in 0..4 {
            let start = format!("{writer} ");
            let lines = written.lines().filter_map(|line| line.strip_prefix(&start));
            let expected = (0..500).map(|line| line.to_string());
            assert!(lines.eq(expected), "of writer {writer}, in order");
        }
        assert_eq!(written.lines().count(), 2000);
    }

    #[test]
    fn what_is_logged_at_the_very_end_is_written_at_once() {
        let writers = Arc::default();
        let sink = Sink {
            written: Arc::default(),
            writers: Arc::clone(&writers),
            go: None,
        };
        let mut queue = LogQueue::start(sink).unwrap();
        queue.write_all(b"before\n").unwrap();
        queue.drain();
        let last = |writers: &Mutex<Vec<_>>| writers.lock().unwrap().last().copied();
        assert_ne!(last(&writers), Some(thread::current().id()));
        queue.write_all(b"after\n").unwrap();
        assert_eq!(last(&writers), Some(thread::current().id()));
    }

    #[test]
    fn callers_block_while_the_reader_reads_nothing() {
        let (go, gone) = mpsc::channel();
        let (queue, written) = queue(Some(gone));
        let big = vec![b'x'; MAX_QUEUED_BYTES];
        let (sent, received) = mpsc::channel();
        let mut own = queue.clone();
        let writer = thread::spawn(move || {
            for _ in 0..3 {
                own.write_all(&big).unwrap();
                sent.send(()).unwrap();
            }
        });
        // One is being written, one waits, the third has no room.
        received.recv().unwrap();
        received.recv().unwrap();
        assert!(received.recv_timeout(Duration::from_millis(50)).is_err());
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        received.recv().unwrap();
        writer.join().unwrap();
        queue.drain();
        assert_eq!(written.lock().unwrap().len(), 3 * MAX_QUEUED_BYTES);
    }
}
