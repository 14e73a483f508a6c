//! Runs one command: drains both pipes at once, keeps to a deadline, and leaves no process behind.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::environment::ChildEnvironment;

/// How long a command may take to stop after SIGTERM. Nix needs the time to kill its builders,
/// which are in sessions of their own and so not in its process group.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long to wait for the rest of the output after the command itself has ended.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// A longer line of stderr is cut. Nix 2.26 reports an infinite recursion with a trace of 10,000
/// frames: a line of 2 MB.
const MAX_LINE: usize = 8 * 1024 * 1024;

/// The shell that limits a command before it becomes it. A limit that is set from outside comes too
/// late for what a fast command has started already.
const SHELL: &str = "/bin/sh";
/// Makes the kernel kill this process before all others when memory is short, so that a runaway
/// evaluation does not take the server along. Fails only where there is no `/proc`.
const FIRST_TO_BE_KILLED: &str = "{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null";
/// A shell or a wrapper reports the signal that killed its command as an exit code above this.
const SIGNAL_CODES: i32 = 128;

/// A command to run.
#[derive(Debug)]
pub(crate) struct CommandSpec {
    /// The program. If it is a name, the `PATH` of `env` is searched.
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// All variables that the command gets.
    pub(crate) env: ChildEnvironment,
    pub(crate) timeout: Duration,
    /// Most bytes of address space of each process of the command.
    pub(crate) memory: Option<u64>,
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

impl Finished {
    /// Returns the signal that killed the command, or the command in a wrapper.
    pub(crate) fn killed_by(&self) -> Option<i32> {
        let in_wrapper = || {
            let signal = self.status.code()? - SIGNAL_CODES;
            (1..=64).contains(&signal).then_some(signal)
        };
        self.status.signal().or_else(in_wrapper)
    }
}

/// Runs a command to its end, or stops it at its deadline. Each line of stderr is passed to
/// `on_line` without its newline, as bytes.
///
/// Dropping the future stops the command and its process group as well.
pub(crate) async fn run(
    spec: &CommandSpec,
    on_line: &mut (dyn FnMut(&[u8]) + Send),
) -> io::Result<Finished> {
    let mut running = Running::spawn(spec)?;
    let pipes = (running.child.stdout.take(), running.child.stderr.take());
    let mut stdout = Vec::new();
    let mut stdout_cut = false;
    let (status, timed_out) = {
        let mut output = pin!(async {
            let kept = |bytes: &[u8]| {
                let room = spec.stdout_limit.saturating_sub(stdout.len());
                stdout_cut |= bytes.len() > room;
                stdout.extend_from_slice(&bytes[..bytes.len().min(room)]);
            };
            tokio::join!(each_chunk(pipes.0, kept), each_line(pipes.1, on_line))
        });
        let mut end = pin!(running.wait(spec.timeout));
        tokio::select! {
            ended = &mut end => {
                // A grandchild may keep a pipe open for ever.
                let _ = timeout(DRAIN_GRACE, output).await;
                ended?
            }
            _ = &mut output => end.await?,
        }
    };
    Ok(Finished {
        status,
        stdout,
        stdout_cut,
        timed_out,
    })
}

/// A command in a process group of its own, which is stopped when this value is dropped.
struct Running {
    child: Child,
    group: Option<Pid>,
    ended: bool,
}

impl Running {
    fn spawn(spec: &CommandSpec) -> io::Result<Self> {
        let program = spec.env.program(&spec.program);
        let program = program.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let child = Command::new(SHELL)
            .arg("-c")
            .arg(confinement(spec.memory))
            .arg(&spec.program)
            .arg(program)
            .args(&spec.args)
            .env_clear()
            .envs(spec.env.iter())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            child,
            group: id.and_then(Pid::from_raw),
            ended: false,
        })
    }

    /// Waits until the command ends, and stops it at the deadline. Returns whether it was stopped.
    async fn wait(&mut self, deadline: Duration) -> io::Result<(ExitStatus, bool)> {
        let ended = match timeout(deadline, self.child.wait()).await {
            Ok(status) => (status?, false),
            Err(_) => (self.stop().await?, true),
        };
        self.ended = true;
        Ok(ended)
    }

    /// Asks the group to stop, and kills it if it does not.
    async fn stop(&mut self) -> io::Result<ExitStatus> {
        signal(self.group, Signal::TERM);
        let in_time = timeout(STOP_GRACE, self.child.wait()).await;
        // Also when the command itself has stopped: its children may ignore SIGTERM.
        signal(self.group, Signal::KILL);
        match in_time {
            Ok(status) => status,
            Err(_) => self.child.wait().await,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        signal(self.group, Signal::TERM);
        // The child itself is reaped by tokio. Without a runtime nothing can wait: kill at once.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(kill_later(self.group))),
            Err(_) => signal(self.group, Signal::KILL),
        }
    }
}

/// Kills a group that does not stop in time. Ends early when the group is gone, so that a new
/// group with the same number is not killed.
async fn kill_later(group: Option<Pid>) {
    let every = Duration::from_millis(100);
    for _ in 0..STOP_GRACE.as_millis() / every.as_millis() {
        sleep(every).await;
        if group.is_none_or(|group| test_kill_process_group(group).is_err()) {
            return;
        }
    }
    signal(group, Signal::KILL);
}

/// The script that limits this process, and then becomes the command in its arguments.
fn confinement(memory: Option<u64>) -> String {
    // Fails if there is a lower limit already, which then stays.
    let limit = memory.map(|bytes| format!("ulimit -v {} 2>/dev/null\n", bytes / 1024));
    let limit = limit.unwrap_or_default();
    format!("{FIRST_TO_BE_KILLED}\n{limit}exec \"$@\"")
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // Fails when the group has no process left, which is the aim.
        let _ = kill_process_group(group, signal);
    }
}

/// Reads a pipe to its end. An error of a pipe is its end: nothing else can be read.
async fn each_chunk(pipe: Option<impl AsyncRead + Unpin>, mut on_chunk: impl FnMut(&[u8])) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        on_chunk(&chunk[..read]);
    }
}

async fn each_line(pipe: Option<impl AsyncRead + Unpin>, on_line: &mut (dyn FnMut(&[u8]) + Send)) {
    let mut line = Vec::new();
    each_chunk(pipe, |chunk| {
        for part in chunk.split_inclusive(|&byte| byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = MAX_LINE.saturating_sub(line.len());
            line.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < part.len() {
                on_line(&line);
                line.clear();
            }
        }
    })
    .await;
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
            env: ChildEnvironment::inherited(&[]).with("NIXERY_TEST", "yes"),
            timeout: Duration::from_millis(timeout_ms),
            memory: None,
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
        // The state follows the name in parentheses; zombies are dead. The command line does not
        // serve: it is empty for a moment while a process becomes its program.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let state = stat
            .ok()
            .and_then(|stat| stat.rsplit(')').next()?.trim().chars().next());
        state.is_some_and(|state| !"ZX".contains(state))
    }

    /// A deadline, in milliseconds, before which even a busy machine has started the shell and run
    /// its first line.
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
    async fn a_command_that_ignores_sigterm_is_killed() {
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

    /// `cargo test` sets variables that are not in the list of what children inherit.
    #[tokio::test]
    async fn the_environment_is_built_up() {
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let spec = CommandSpec {
            program: "env".into(),
            args: vec!["-0".into()],
            ..sh("", 60_000)
        };
        let (finished, _) = run_lines(&spec).await;
        let mut expected: Vec<_> = spec.env.iter().collect();
        let variables = finished.stdout.split(|&byte| byte == 0);
        let mut found: Vec<_> = variables
            .filter_map(|variable| std::str::from_utf8(variable).ok()?.split_once('='))
            // Shells set these.
            .filter(|(name, _)| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
            .collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_command_is_killed_before_the_process_that_started_it() {
        let (finished, _) = run_lines(&sh("cat /proc/self/oom_score_adj", 60_000)).await;
        assert_eq!(finished.stdout, b"1000\n");
    }

    #[tokio::test]
    async fn the_memory_of_a_command_is_limited() {
        let with = |memory| CommandSpec {
            memory,
            ..sh("ulimit -v", 60_000)
        };
        let (limited, _) = run_lines(&with(Some(1 << 30))).await;
        assert_eq!(limited.stdout, b"1048576\n");
        let (free, _) = run_lines(&with(None)).await;
        assert_ne!(free.stdout, limited.stdout);
    }

    #[tokio::test]
    async fn the_signal_that_killed_a_command_is_found() {
        for (script, signal) in [
            ("kill -KILL $$", Some(9)),
            ("sh -c 'kill -ABRT $$'", Some(6)),
            ("exit 101", None),
            ("exit 255", None),
        ] {
            let (finished, _) = run_lines(&sh(script, 60_000)).await;
            assert_eq!(finished.killed_by(), signal, "{script}");
        }
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
