//! Telling, on one machine, whether the process that wrote a lease still lives.
//!
//! From `/proc`, so on Linux only; elsewhere leases of the dead go stale.

use std::fs;
use std::sync::LazyLock;

use nixery_manifest::Digest;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// A process, named so that no other ever has the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Hash of the boot and the PID namespace: where the PID means this process.
    machine: String,
    pid: i32,
    /// Clock ticks from boot to its start: PIDs are used again.
    started: u64,
}

impl Process {
    /// This process; `None` where the system does not tell.
    pub(super) fn current() -> Option<&'static Self> {
        static CURRENT: LazyLock<Option<Process>> = LazyLock::new(|| {
            let pid = i32::try_from(std::process::id()).ok()?;
            // A `/proc` of another PID namespace tells of other processes.
            if fs::read_link("/proc/self").ok()?.to_str()? != pid.to_string() {
                return None;
            }
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
            let machine = Digest::of(format!("{boot}{}", namespace.display()).as_bytes());
            Some(Process {
                machine: machine.hex(),
                pid,
                started: Stat::of(pid)?.started,
            })
        });
        CURRENT.as_ref()
    }

    /// Whether it ran where this process runs, and does so no more.
    pub(super) fn is_dead(&self) -> bool {
        let here = Self::current().is_some_and(|current| current.machine == self.machine);
        // `from_raw` panics at negative numbers, and 0 is no process.
        let pid = (here && self.pid > 0).then(|| Pid::from_raw(self.pid));
        let Some(pid) = pid.flatten() else {
            return false;
        };
        // Not by `/proc` alone: it may hide the processes of other users.
        match test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            Ok(()) | Err(_) => Stat::of(self.pid)
                .is_some_and(|stat| stat.has_ended || stat.started != self.started),
        }
    }
}

/// What `/proc/PID/stat` tells; `proc_pid_stat(5)`.
struct Stat {
    has_ended: bool,
    started: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name in parentheses, which may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        Some(Self {
            has_ended: matches!(state, "Z" | "X" | "x"),
            // The 22nd field, and the state was the third.
            started: fields.nth(18)?.parse().ok()?,
        })
    }
}

/// Host and process, for people.
pub(super) fn holder() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "unknown host",
        host => host,
    };
    format!("{host}, process {}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let text = "7 (a) Z (b c) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 98";
        let stat = Stat::parse(text).expect("parses");
        assert_eq!((stat.has_ended, stat.started), (false, 4711));
        let zombie = Stat::parse(&text.replace(") S", ") Z")).expect("parses");
        assert!(zombie.has_ended);
        assert!(Stat::parse("7 (a) S 1 2").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_dead_are_told_from_the_living() {
        let me = Process::current().expect("Linux tells");
        assert!(!me.is_dead());
        let started = me.started + 1;
        let reused = Process {
            started,
            ..me.clone()
        };
        assert!(reused.is_dead(), "the PID is another process now");
        let machine = "another".to_owned();
        let elsewhere = Process { machine, ..reused };
        assert!(!elsewhere.is_dead(), "nobody here can tell");
        for pid in [0, -1] {
            let odd = Process { pid, ..me.clone() };
            assert!(!odd.is_dead(), "it is no process");
        }

        let mut child = std::process::Command::new("sleep").arg("60").spawn();
        let child = child.as_mut().expect("starts");
        let pid = i32::try_from(child.id()).expect("fits");
        let started = Stat::of(pid).expect("runs").started;
        let process = Process {
            pid,
            started,
            ..me.clone()
        };
        assert!(!process.is_dead());
        child.kill().expect("kills");
        while !process.is_dead() {
            // A zombie, once the signal has arrived: nobody has waited for it yet.
            std::thread::yield_now();
        }
        child.wait().expect("waits");
        assert!(process.is_dead());
    }
}
