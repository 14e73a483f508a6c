//! Running one command: both pipes drained at once, a deadline, and nothing left behind.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// How long a command may take to stop when asked to. Nix uses it to kill its builders, which
/// live in sessions of their own and are out of our reach.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long output is awaited after the command itself has ended: a grandchild may keep a pipe
/// open for ever.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// A longer line of stderr is cut. Nix 2.26 reports an infinite recursion with a trace of 10,000
/// frames: a line of 2 MB.
const MAX_LINE: usize = 8 * 1024 * 1024;

/// A command to run.
#[derive(Debug)]
pub(crate) struct CommandSpec {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// Added to this process's environment.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) timeout: Duration,
    /// Bytes of stdout beyond this are read but not kept.
    pub(crate) stdout_limit: usize,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// Stdout was longer than its limit.
    pub(crate) stdout_cut: bool,
    /// The deadline passed and the command was stopped.
    pub(crate) timed_out: bool,
}

/// Runs a command to its end, or stops it at its deadline. Each line of stderr goes to `on_line`
/// without its newline, as bytes.
///
/// Dropping the future stops the command and its process group as well.
pub(crate) async fn run(
    spec: &CommandSpec,
    on_line: &mut (dyn FnMut(&[u8]) + Send),
) -> io::Result<Finished> {
    let mut running = Running::spawn(spec)?;
    let stdout = running.child.stdout.take();
    let stderr = running.child.stderr.take();
    let mut out = Collected {
        bytes: Vec::new(),
        limit: spec.stdout_limit,
        cut: false,
    };

    let (status, timed_out) = {
        let output =
            std::pin::pin!(async { tokio::join!(out.read(stdout), each_line(stderr, on_line)) });
        let mut output = Drain {
            output,
            done: false,
        };
        let ended = tokio::select! {
            status = running.child.wait() => Some(status?),
            () = sleep(spec.timeout) => None,
            never = output.forever() => match never {},
        };
        let result = match ended {
            Some(status) => (status, false),
            None => tokio::select! {
                status = running.stop() => (status?, true),
                never = output.forever() => match never {},
            },
        };
        running.ended = true;
        output.finish().await;
        result
    };
    Ok(Finished {
        status,
        stdout: out.bytes,
        stdout_cut: out.cut,
        timed_out,
    })
}

/// A command in a process group of its own, which goes down with this value.
struct Running {
    child: Child,
    group: Option<Pid>,
    ended: bool,
}

impl Running {
    fn spawn(spec: &CommandSpec) -> io::Result<Self> {
        let child = Command::new(&spec.program)
            .args(&spec.args)
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self {
            child,
            group,
            ended: false,
        })
    }

    async fn stop(&mut self) -> io::Result<ExitStatus> {
        stop(&mut self.child, self.group).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        signal(self.group, Signal::TERM);
        let Some(group) = self.group else { return };
        // The child itself is reaped by tokio. Without a runtime there is no time to wait: kill.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(kill_later(group))),
            Err(_) => signal(self.group, Signal::KILL),
        }
    }
}

/// Kills a group that does not stop in time. Ends early when it is gone, so that its number, used
/// anew, is not hit.
async fn kill_later(group: Pid) {
    let every = Duration::from_millis(100);
    for _ in 0..STOP_GRACE.as_millis() / every.as_millis() {
        sleep(every).await;
        if test_kill_process_group(group).is_err() {
            return;
        }
    }
    signal(Some(group), Signal::KILL);
}

/// Asks the group to stop, then makes it.
async fn stop(child: &mut Child, group: Option<Pid>) -> io::Result<ExitStatus> {
    signal(group, Signal::TERM);
    let in_time = timeout(STOP_GRACE, child.wait()).await;
    // Also when the command itself has stopped: its children may ignore SIGTERM.
    signal(group, Signal::KILL);
    match in_time {
        Ok(status) => status,
        Err(_) => child.wait().await,
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // Fails when nobody is left in the group, which is what we want.
        let _ = kill_process_group(group, signal);
    }
}

/// Output being read, driven beside whatever else is awaited.
struct Drain<'a, F> {
    output: Pin<&'a mut F>,
    done: bool,
}

impl<F: Future> Drain<'_, F> {
    async fn forever(&mut self) -> Infallible {
        if !self.done {
            self.output.as_mut().await;
            self.done = true;
        }
        std::future::pending().await
    }

    async fn finish(&mut self) {
        if !self.done {
            // What a grandchild may still write is not worth waiting for.
            let _ = timeout(DRAIN_GRACE, self.output.as_mut()).await;
        }
    }
}

struct Collected {
    bytes: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl Collected {
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = vec![0; 64 * 1024];
        // An error of a pipe is its end: there is nothing else to read.
        while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
            let room = self.limit.saturating_sub(self.bytes.len());
            self.cut |= read > room;
            self.bytes.extend_from_slice(&chunk[..read.min(room)]);
        }
    }
}

async fn each_line(pipe: Option<impl AsyncRead + Unpin>, on_line: &mut (dyn FnMut(&[u8]) + Send)) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; 64 * 1024];
    let mut line = Vec::new();
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        for part in chunk[..read].split_inclusive(|&b| b == b'\n') {
            let (text, complete) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = MAX_LINE.saturating_sub(line.len());
            line.extend_from_slice(&text[..text.len().min(room)]);
            if complete {
                on_line(&line);
                line.clear();
            }
        }
    }
    if !line.is_empty() {
        on_line(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sh(script: &str, timeout_ms: u64) -> CommandSpec {
        CommandSpec {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("NIXERY_TEST".into(), "yes".into())],
            timeout: Duration::from_millis(timeout_ms),
            stdout_limit: 16 * 1024 * 1024,
        }
    }

    async fn run_lines(spec: &CommandSpec) -> (Finished, Vec<Vec<u8>>) {
        let mut lines = Vec::new();
        let finished = run(spec, &mut |line| lines.push(line.to_vec()))
            .await
            .expect("sh runs");
        (finished, lines)
    }

    fn alive(pid: &str) -> bool {
        // The state follows the name in parentheses; zombies are dead. (Not the command line: that is empty for a
        // moment in a process that is just becoming its program.)
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let state = stat
            .ok()
            .and_then(|stat| stat.rsplit(')').next()?.trim().chars().next());
        state.is_some_and(|state| !"ZX".contains(state))
    }

    /// A deadline, in milliseconds, before which even a busy machine has started the shell and run its first line.
    const SOON: u64 = 3000;

    /// Waits until the process is gone; fails the test after ten seconds.
    async fn gone(pid: &str) {
        let start = Instant::now();
        while alive(pid) {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "process {pid} still lives"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The original read stdout to its end before stderr and hung here.
    #[tokio::test]
    async fn both_pipes_may_flood() {
        let flood = "i=0; while [ $i -lt 3000 ]; do \
            printf '%01000d\\n' 0; printf '%01000d\\n' 0 >&2; i=$((i+1)); done";
        let (finished, lines) = run_lines(&sh(flood, 60_000)).await;
        assert!(finished.status.success());
        assert_eq!((finished.stdout.len(), lines.len()), (3000 * 1001, 3000));
    }

    #[tokio::test]
    async fn output_is_bytes_and_the_last_line_needs_no_newline() {
        let script =
            "printf 'a\\000b\\n\\n\\377' >&2; printf 'x\\000y'; printf %s \"$NIXERY_TEST\"; exit 3";
        let (finished, lines) = run_lines(&sh(script, 60_000)).await;
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stdout, b"x\0yyes");
        assert_eq!(lines, [b"a\0b".to_vec(), b"".to_vec(), b"\xff".to_vec()]);
        assert!(!finished.timed_out && !finished.stdout_cut);
    }

    #[tokio::test]
    async fn stdout_is_bounded() {
        let spec = CommandSpec {
            stdout_limit: 10,
            ..sh("printf 0123456789abc", 60_000)
        };
        let (finished, _) = run_lines(&spec).await;
        assert_eq!(
            (finished.stdout.as_slice(), finished.stdout_cut),
            (&b"0123456789"[..], true)
        );
    }

    #[tokio::test]
    async fn a_long_line_is_cut() {
        let script = "head -c 9000000 /dev/zero >&2; echo >&2; echo end >&2";
        let (_, lines) = run_lines(&sh(script, 60_000)).await;
        assert_eq!(
            lines.iter().map(Vec::len).collect::<Vec<_>>(),
            [MAX_LINE, 3]
        );
    }

    #[tokio::test]
    async fn the_deadline_stops_the_whole_group() {
        let (finished, lines) = run_lines(&sh("sleep 100 & echo $! >&2; wait", SOON)).await;
        assert!(finished.timed_out && !finished.status.success());
        gone(std::str::from_utf8(&lines[0]).expect("a pid")).await;
    }

    #[tokio::test]
    async fn who_ignores_sigterm_is_killed() {
        let start = Instant::now();
        let script = "trap '' TERM; echo $$ >&2; while :; do sleep 1; done";
        let (finished, lines) = run_lines(&sh(script, SOON)).await;
        assert!(finished.timed_out);
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
        gone(std::str::from_utf8(&lines[0]).expect("a pid")).await;
    }

    #[tokio::test]
    async fn a_grandchild_that_holds_the_pipes_is_not_waited_for() {
        let start = Instant::now();
        let (finished, lines) =
            run_lines(&sh("setsid sleep 30 & echo $! >&2; echo out", 60_000)).await;
        assert!(finished.status.success());
        assert_eq!(finished.stdout, b"out\n");
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{:?}",
            start.elapsed()
        );
        let pid = std::str::from_utf8(&lines[0])
            .expect("a pid")
            .trim()
            .parse()
            .ok();
        signal(pid.and_then(Pid::from_raw), Signal::KILL);
    }

    #[tokio::test]
    async fn dropping_the_call_stops_the_group() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut sender = Some(sender);
            let spec = sh("sleep 100 & echo $! >&2; wait", 60_000);
            run(&spec, &mut |line| {
                if let Some(sender) = sender.take() {
                    let _ = sender.send(String::from_utf8_lossy(line).into_owned());
                }
            })
            .await
        });
        let pid = receiver.await.expect("a pid");
        assert!(alive(&pid));
        task.abort();
        gone(&pid).await;
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let spec = CommandSpec {
            program: "/nonexistent/nix".into(),
            ..sh("", 1000)
        };
        let error = run(&spec, &mut |_| {}).await.expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
