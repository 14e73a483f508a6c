//! What a lease object contains, and whether the process that wrote it is still running.
//!
//! Processes are looked up in `/proc`, so on Linux only; elsewhere the leases of dead processes
//! expire.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::{Key, Storage, StorageError};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::versioned;

/// Version of the format. Leases of another version are only observed for changes, which is enough
/// to wait for them.
const VERSION: u32 = 1;
/// Most bytes of a lease; it has a few hundred.
const MAX_BYTES: u64 = 64 * 1024;
/// Longest lease time that a holder may claim: nobody should wait longer for a dead one.
const LONGEST: Duration = Duration::from_secs(3600);

/// A lease, as JSON in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LeaseContent {
    /// For people who look into the store.
    task: String,
    /// For people: the holder's host and process.
    pub(super) holder: String,
    /// Names this acquisition: the server that finds its own token has the lease.
    pub(super) token: String,
    /// The lease time that the holder renews by.
    milliseconds: u64,
    pub(super) renewals: u64,
    /// The holder's process, if its machine names processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
}

impl LeaseContent {
    pub(super) fn new(task: &str, ttl: Duration, token: String) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "unknown host",
            host => host,
        };
        Self {
            task: task.to_owned(),
            holder: format!("{host}, process {}", std::process::id()),
            token,
            milliseconds: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            renewals: 0,
            process: Process::current().cloned(),
        }
    }

    /// Reads a lease; `None` if another version or another program wrote it.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        versioned::from_bytes(VERSION, bytes).ok()
    }

    pub(super) fn bytes(&self) -> Bytes {
        versioned::to_bytes(VERSION, self).into()
    }

    /// Whether the bytes are a state of the same acquisition.
    pub(super) fn has_token_of(&self, bytes: &[u8]) -> bool {
        Self::parse(bytes).is_some_and(|found| found.token == self.token)
    }

    pub(super) fn lease_time(&self) -> Duration {
        Duration::from_millis(self.milliseconds).min(LONGEST)
    }

    /// Whether the holder's process ran on this machine and has ended.
    pub(super) fn holder_is_dead(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_dead)
    }
}

/// Reads the bytes of a lease; `None` if nobody holds it.
pub(super) async fn read(storage: &dyn Storage, key: &Key) -> Result<Option<Bytes>, StorageError> {
    storage.get_bytes(key, MAX_BYTES).await
}

/// A process, with a name that no other process ever has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    /// Hash of the boot and the PID namespace in which the PID means this process.
    machine: String,
    pid: i32,
    /// Clock ticks from boot to its start: PIDs are used again.
    started: u64,
}

impl Process {
    /// This process; `None` if the system does not have the facts.
    fn current() -> Option<&'static Self> {
        static CURRENT: LazyLock<Option<Process>> = LazyLock::new(|| {
            let pid = i32::try_from(std::process::id()).ok()?;
            // A `/proc` of another PID namespace describes other processes.
            if fs::read_link("/proc/self").ok()?.to_str()? != pid.to_string() {
                return None;
            }
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
            let machine = Digest::of(format!("{boot}{}", namespace.display()).as_bytes());
            Some(Process {
                machine: machine.hex(),
                pid,
                started: ProcessStat::of(pid)?.started,
            })
        });
        CURRENT.as_ref()
    }

    /// Whether it ran where this process runs, and has ended.
    fn is_dead(&self) -> bool {
        let here = Self::current().is_some_and(|current| current.machine == self.machine);
        // `from_raw` panics at negative numbers, and 0 is not a process.
        let pid = (here && self.pid > 0).then(|| Pid::from_raw(self.pid));
        let Some(pid) = pid.flatten() else {
            return false;
        };
        // `/proc` alone is not enough: it may hide the processes of other users.
        match test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            Ok(()) | Err(_) => ProcessStat::of(self.pid)
                .is_some_and(|stat| stat.has_ended || stat.started != self.started),
        }
    }
}

/// What is needed of `/proc/PID/stat`; see `proc_pid_stat(5)`.
struct ProcessStat {
    has_ended: bool,
    started: u64,
}

impl ProcessStat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name in parentheses, which may contain anything.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        Some(Self {
            has_ended: matches!(state, "Z" | "X" | "x"),
            // The 22nd field; the state is the third.
            started: fields.nth(18)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers of other versions read this format.
    #[test]
    fn the_format_is_pinned() {
        let mut content = LeaseContent::new("image x", Duration::from_secs(15), "t0".into());
        content.holder = "host, process 7".into();
        content.process = None;
        let json = r#"{"version":1,"task":"image x","holder":"host, process 7","token":"t0","milliseconds":15000,"renewals":0}"#;
        assert_eq!(content.bytes(), json);
        assert_eq!(LeaseContent::parse(json.as_bytes()), Some(content));
    }

    #[test]
    fn a_lease_of_another_version_is_not_parsed() {
        for other in ["", "{}", r#"{"version":2}"#, "[1]"] {
            assert_eq!(LeaseContent::parse(other.as_bytes()), None);
        }
        let content = LeaseContent::new("x", Duration::MAX, "t".into());
        assert_eq!(content.lease_time(), LONGEST);
        let newer = versioned::to_bytes(2, &content);
        assert_eq!(LeaseContent::parse(&newer), None);
    }

    #[test]
    fn a_program_name_may_contain_anything() {
        let text = "7 (a) Z (b c) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 98";
        let stat = ProcessStat::parse(text).expect("parses");
        assert_eq!((stat.has_ended, stat.started), (false, 4711));
        let zombie = ProcessStat::parse(&text.replace(") S", ") Z")).expect("parses");
        assert!(zombie.has_ended);
        assert!(ProcessStat::parse("7 (a) S 1 2").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_dead_process_is_distinguished_from_a_live_one() {
        let me = Process::current().expect("Linux has the facts");
        assert!(!me.is_dead());
        let started = me.started + 1;
        let reused = Process {
            started,
            ..me.clone()
        };
        assert!(reused.is_dead(), "the PID is another process now");
        let machine = "another".to_owned();
        let other_machine = Process { machine, ..reused };
        assert!(!other_machine.is_dead(), "it cannot be checked here");
        for pid in [0, -1] {
            let odd = Process { pid, ..me.clone() };
            assert!(!odd.is_dead(), "it is not a process");
        }

        let mut child = std::process::Command::new("sleep").arg("60").spawn();
        let child = child.as_mut().expect("starts");
        let pid = i32::try_from(child.id()).expect("fits");
        let started = ProcessStat::of(pid).expect("runs").started;
        let process = Process {
            pid,
            started,
            ..me.clone()
        };
        assert!(!process.is_dead());
        child.kill().expect("kills");
        while !process.is_dead() {
            // A zombie once the signal has arrived, as nothing has waited for it yet.
            std::thread::yield_now();
        }
        child.wait().expect("waits");
        assert!(process.is_dead());
    }
}
