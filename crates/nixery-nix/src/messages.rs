//! What a single message of Nix means.
//!
//! The texts are those of Nix 2.8 (Debian 12), 2.26 (Debian 13) and 2.30 and later, which has a new
//! wording for a failed build ("Cannot build '…'. Reason: …").

/// The system's message for a full disk, as builders and Nix repeat it.
pub(crate) const NO_SPACE: &str = "No space left on device";
/// Nix's messages for a full disk: the system's, and the one of its database.
const NO_SPACE_FOR_NIX: [&str; 2] = [NO_SPACE, "database or disk is full"];
/// The reason of a build for which the disk was too small.
pub(crate) const DISK_FULL: &str = "disk-full";
/// The same for people.
pub(crate) const DISK_FULL_TEXT: &str = "the server's disk is full";

/// Nix's own message when it cannot allocate memory.
pub(crate) const OUT_OF_MEMORY: &str = "out of memory";
/// What the C++ runtime and the garbage collector print before they abort a process that cannot
/// allocate memory.
pub(crate) const ABORTED: [&str; 2] = ["std::bad_alloc", "GC Warning: Out of Memory"];

/// Why no build can succeed on this machine.
pub(crate) struct Obstacle {
    /// Parts of Nix's messages that mean it.
    patterns: &'static [&'static str],
    /// What is wrong, fit for clients.
    pub(crate) problem: &'static str,
    /// What the operator can do, where it is known.
    pub(crate) remedy: Option<&'static str>,
}

const OBSTACLES: &[Obstacle] = &[
    Obstacle {
        patterns: &[
            "cannot connect to socket",
            "cannot connect to daemon",
            "opening a connection to remote store",
        ],
        problem: "the Nix daemon cannot be reached",
        remedy: Some(
            "start nix-daemon and let this user connect to it (on Debian: install nix-setup-systemd, \
             and add the user to the group nix-users)",
        ),
    },
    Obstacle {
        patterns: &NO_SPACE_FOR_NIX,
        problem: DISK_FULL_TEXT,
        remedy: Some("free space below /nix"),
    },
    Obstacle {
        patterns: &["Cannot allocate memory"],
        problem: "the server has too little memory",
        remedy: Some("free memory on this machine, or raise the limit of this service"),
    },
    Obstacle {
        patterns: &["in 'build-users-group' does not exist"],
        problem: "Nix's build group does not exist",
        remedy: Some(
            "create the group nixbld with members, or set NIX_CONFIG='build-users-group =' to build \
             as this user",
        ),
    },
    Obstacle {
        patterns: &[
            "kernel namespaces",
            "cloning builder process",
            "unable to start build process",
            "setting up a private mount namespace",
        ],
        problem: "Nix's build sandbox does not work",
        remedy: Some("allow user namespaces here, or set NIX_CONFIG='sandbox = false'"),
    },
    Obstacle {
        patterns: &[
            "could not set permissions on '/nix",
            "creating directory '",
            "Permission denied",
            "is not allowed to",
        ],
        problem: "the Nix store is not accessible",
        remedy: Some("make /nix writable for this user, run as root, or start nix-daemon"),
    },
    Obstacle {
        patterns: &["unable to download"],
        problem: "a binary cache or download server cannot be reached",
        remedy: None,
    },
    Obstacle {
        patterns: &[
            // Nix ≥ 2.30 writes "Cannot".
            "annot build missing derivation",
            "don't know how to build these paths",
        ],
        problem: "a derivation was garbage-collected before it was built. Fix: try again",
        remedy: None,
    },
];

/// Returns why no build can succeed here, if a message of Nix means that.
pub(crate) fn obstacle(text: &str) -> Option<&'static Obstacle> {
    let means = |obstacle: &&Obstacle| obstacle.patterns.iter().any(|part| text.contains(part));
    OBSTACLES.iter().find(means)
}

/// Returns whether Nix itself reports in this error that the disk is full, and not a builder.
pub(crate) fn says_disk_full(text: &str) -> bool {
    NO_SPACE_FOR_NIX.iter().any(|words| text.contains(words)) && failed_derivation(text).is_none()
}

/// The derivation that has failed by itself according to a message, and the reason as a slug.
pub(crate) fn failed_derivation(text: &str) -> Option<(String, String)> {
    let text = without_log_lines(text);
    let quoted = |prefix| quoted_after(text, prefix);
    let (derivation, reason) = if let Some(derivation) = quoted("annot build ") {
        // Nix ≥ 2.30. Not "Cannot build missing derivation", which has no "Reason:".
        let reason = text.split_once("Reason: ")?.1;
        let dependency = reason.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        if dependency.starts_with("dependenc") {
            return None;
        }
        let reason = match quoted("Required system: ") {
            Some(system) => format!("needs-{system}"),
            None => builder_reason(reason),
        };
        (derivation, reason)
    } else if let Some(derivation) = quoted("builder for ") {
        (derivation, builder_reason(text))
    } else if let Some(derivation) = quoted("hash mismatch in fixed-output derivation ") {
        (derivation, "hash-mismatch".to_owned())
    } else if let Some(derivation) = quoted("is required to build ") {
        let system = quoted("a ").unwrap_or("another-system");
        (derivation, format!("needs-{system}"))
    } else {
        let derivation = quoted("building of ").filter(|_| text.contains(" timed out after "))?;
        (derivation, "timed-out".to_owned())
    };
    // Without the outputs: `…-slow.drv!*` and `…-slow.drv^out`.
    let derivation = derivation.split(['!', '^']).next().unwrap_or(derivation);
    Some((derivation.to_owned(), reason))
}

/// Removes the last lines of a builder's log, which some messages end with: a builder can print
/// anything.
fn without_log_lines(text: &str) -> &str {
    let Some(heading) = text.find(" log lines:") else {
        return text;
    };
    // "last 10 log lines:" is a line of its own.
    let start = text[..heading].rfind('\n').unwrap_or(0);
    &text[..start]
}

fn builder_reason(text: &str) -> String {
    const REASONS: [(&str, &str); 3] = [
        ("failed to produce output", "builder-made-no-output"),
        ("timed out", "timed-out"),
        ("hash mismatch", "hash-mismatch"),
    ];
    let number = |after: &str| {
        let rest = text.split_once(after)?.1;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.filter(|digits| !digits.is_empty())
    };
    if let Some(code) = number("failed with exit code ") {
        return format!("builder-exited-{code}");
    }
    if let Some(signal) = number("failed due to signal ") {
        return format!("builder-killed-by-signal-{signal}");
    }
    let reason = REASONS.iter().find(|(words, _)| text.contains(words));
    reason
        .map_or("builder-failed", |(_, reason)| reason)
        .to_owned()
}

/// The text in quotes right after the first `prefix` that quotes follow.
pub(crate) fn quoted_after<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    text.match_indices(prefix).find_map(|(at, _)| {
        let rest = text[at + prefix.len()..].strip_prefix('\'')?;
        rest.split_once('\'').map(|(quoted, _)| quoted)
    })
}

/// The name of the first store path in quotes: `fifo-1.0`.
pub(crate) fn output_name(text: &str) -> Option<&str> {
    let (_, mut rest) = text.split_once("'/nix/store/")?;
    // In a sandbox the output is still inside of it:
    // "/nix/store/…-x.drv.chroot/nix/store/…-x/pipe".
    if let Some((sandbox, output)) = rest.split_once(".drv.chroot")
        && !sandbox.contains('/')
    {
        rest = output.split_once("/nix/store/")?.1;
    }
    let base = rest.split(['/', '\'']).next()?;
    base.split_once('-').map(|(_, name)| name)
}

/// Returns the words for a reason of [`PackageError::Failed`](crate::PackageError::Failed), as the
/// end of "package `x` failed to build: …". A reason that is not known is returned as it is.
pub(crate) fn describe_reason(reason: &str) -> String {
    if let Some(code) = reason.strip_prefix("builder-exited-") {
        return format!("its builder exited with code {code}");
    }
    if let Some(signal) = reason.strip_prefix("builder-killed-by-signal-") {
        return format!("its builder was killed by signal {signal}");
    }
    if let Some(system) = reason.strip_prefix("needs-") {
        return format!("it must be built on {system}, for which this server has no builder");
    }
    match reason {
        "builder-made-no-output" => "its builder ended without creating its output",
        "output-refused" => "Nix refused the output of its builder",
        "builder-failed" => "its builder failed",
        "hash-mismatch" => "a download does not match its hash in the package set",
        DISK_FULL => DISK_FULL_TEXT,
        "timed-out" => "it took longer than the Nix settings of the server allow",
        other => other,
    }
    .to_owned()
}

/// Returns the name of a signal with its likely cause, as the end of "it was killed by …".
pub(crate) fn describe_signal(signal: i32) -> String {
    let (name, cause) = match signal {
        1 => ("SIGHUP", "because something stopped it"),
        2 => ("SIGINT", "because something stopped it"),
        4 => ("SIGILL", "because of a defect in it"),
        6 => ("SIGABRT", "because of a lack of memory"),
        7 => ("SIGBUS", "because of a defect or a full disk"),
        9 => ("SIGKILL", "because the server has too little memory"),
        11 => ("SIGSEGV", "because of a defect in it"),
        15 => ("SIGTERM", "because something stopped it"),
        24 => ("SIGXCPU", "because of a limit of its time"),
        25 => ("SIGXFSZ", "because of a limit of the size of files"),
        31 => ("SIGSYS", "because its sandbox forbids a system call"),
        other => return format!("signal {other}"),
    };
    format!("{name}, probably {cause}")
}

/// Returns the names as words for a message: "package `a`", "packages `a`, `b` and `c`".
pub(crate) fn describe_packages(names: &[String]) -> String {
    match names {
        [] => "such package".to_owned(),
        [one] => format!("package `{one}`"),
        [rest @ .., last] => {
            let rest: Vec<_> = rest.iter().map(|name| format!("`{name}`")).collect();
            format!("packages {} and `{last}`", rest.join(", "))
        }
    }
}
