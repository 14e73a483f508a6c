//! Running programs and judging how they ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a program printed and whether it succeeded.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// Whether the exit status was 0.
    pub ok: bool,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
}

impl Ran {
    /// Standard output of a program that must have succeeded.
    ///
    /// # Panics
    /// It failed; its output is in the message.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(
            self.ok,
            "`{}` failed\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.stdout, self.stderr
        );
        self.stdout
    }

    /// Both streams of a program that must have failed.
    ///
    /// # Panics
    /// It succeeded.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(
            !self.ok,
            "`{}` succeeded\n--- stdout\n{}",
            self.line, self.stdout
        );
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// Runs the command to its end.
///
/// # Panics
/// The program cannot be started, which means that the tests' set-up was skipped.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let line = format!("{command:?}");
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!("`{line}` does not start: {error}; run `scripts/setup test`")
        });
    Ran {
        line,
        ok: status.success(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// The processes (as folders of `/proc`) whose environment holds the text, which is how a builder
/// gets its salt.
///
/// # Panics
/// There is no `/proc`.
pub fn with_in_environment(text: &[u8]) -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc")
        .expect("Linux has a /proc")
        .flatten()
        .map(|entry| entry.path());
    let environment = |process: &Path| std::fs::read(process.join("environ")).unwrap_or_default();
    processes
        .filter(|process| {
            environment(process)
                .windows(text.len())
                .any(|window| window == text)
        })
        .collect()
}
