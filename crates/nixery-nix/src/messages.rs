//! What a single message of Nix means.

use crate::words::list_first;

/// What the system says of a full disk, as builders and Nix repeat it.
pub(crate) const NO_SPACE: &str = "No space left on device";
/// What Nix says of a full disk: the system's words, and those of its database.
const NO_SPACE_FOR_NIX: [&str; 2] = [NO_SPACE, "database or disk is full"];
/// The reason of a build for which the disk was too small.
pub(crate) const DISK_FULL: &str = "disk-full";
/// The same for people.
pub(crate) const DISK_FULL_TEXT: &str = "the server's disk is full";

/// Whether Nix itself says in this error that the disk is full; what builders say it only repeats.
pub(crate) fn says_disk_full(text: &str) -> bool {
    let says = |words: &&str| text.contains(*words);
    NO_SPACE_FOR_NIX.iter().any(says) && failed_derivation(text).is_none()
}

/// The derivation a message says has failed by itself, and the reason as a slug.
pub(crate) fn failed_derivation(text: &str) -> Option<(String, String)> {
    if let Some(derivation) = quoted_after(text, "annot build ") {
        // Nix ≥ 2.30. Not "Cannot build missing derivation", which has no "Reason:".
        let reason = text.split_once("Reason: ")?.1;
        let dependency = reason.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        if dependency.starts_with("dependenc") {
            return None;
        }
        let reason = if let Some(system) = quoted_after(text, "Required system: ") {
            format!("needs-{system}")
        } else {
            builder_reason(reason)
        };
        return Some((derivation_path(derivation), reason));
    }
    if let Some(derivation) = quoted_after(text, "builder for ") {
        return Some((derivation_path(derivation), builder_reason(text)));
    }
    if let Some(derivation) = quoted_after(text, "hash mismatch in fixed-output derivation ") {
        return Some((derivation_path(derivation), "hash-mismatch".to_owned()));
    }
    if let Some(derivation) = quoted_after(text, "is required to build ") {
        let system = quoted_after(text, "a ").unwrap_or("another-system");
        return Some((derivation_path(derivation), format!("needs-{system}")));
    }
    if let Some(derivation) = quoted_after(text, "building of ")
        && text.contains(" timed out after ")
    {
        return Some((derivation_path(derivation), "timed-out".to_owned()));
    }
    None
}

pub(crate) fn builder_reason(text: &str) -> String {
    let number = |after: &str| {
        let rest = text.split_once(after)?.1;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        (digits > 0).then(|| rest[..digits].to_owned())
    };
    if let Some(code) = number("failed with exit code ") {
        format!("builder-exited-{code}")
    } else if let Some(signal) = number("failed due to signal ") {
        format!("builder-killed-by-signal-{signal}")
    } else if text.contains("failed to produce output") {
        "builder-made-no-output".to_owned()
    } else if text.contains("timed out") {
        "timed-out".to_owned()
    } else if text.contains("hash mismatch") {
        "hash-mismatch".to_owned()
    } else {
        "builder-failed".to_owned()
    }
}

/// Why no build can succeed here, if that is what a message of Nix means.
pub(crate) fn unavailable(text: &str) -> Option<&'static str> {
    const PROBLEMS: &[(&[&str], &str)] = &[
        (
            &[
                "cannot connect to socket",
                "cannot connect to daemon",
                "opening a connection to remote store",
            ],
            "the Nix daemon cannot be reached",
        ),
        (&NO_SPACE_FOR_NIX, DISK_FULL_TEXT),
        (
            &["in 'build-users-group' does not exist"],
            "Nix's build group does not exist",
        ),
        (
            &[
                "kernel namespaces",
                "cloning builder process",
                "unable to start build process",
                "setting up a private mount namespace",
            ],
            "Nix's build sandbox does not work",
        ),
        (
            &[
                "could not set permissions on '/nix",
                "creating directory '",
                "Permission denied",
                "is not allowed to",
            ],
            "the Nix store is not accessible",
        ),
        (
            &["unable to download"],
            "a binary cache or download server cannot be reached",
        ),
        (
            &[
                // Nix ≥ 2.30 writes "Cannot".
                "annot build missing derivation",
                "don't know how to build these paths",
            ],
            "a derivation was garbage-collected before it was built; try again",
        ),
    ];
    list_first(PROBLEMS, text)
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
    const STORE: &str = "/nix/store/";
    let (_, mut rest) = text.split_once("'/nix/store/")?;
    // With a sandbox the output is still inside of it: "/nix/store/…-x.drv.chroot/nix/store/…-x/pipe".
    if let Some((_, output)) = rest
        .split_once(".drv.chroot")
        .filter(|(sandbox, _)| !sandbox.contains('/'))
    {
        rest = output.split_once(STORE)?.1;
    }
    let base = rest.split(['/', '\'']).next()?;
    base.split_once('-').map(|(_, name)| name)
}

/// Without the outputs: `…-slow.drv!*` and `…-slow.drv^out`.
fn derivation_path(derivation: &str) -> String {
    derivation
        .split(['!', '^'])
        .next()
        .unwrap_or(derivation)
        .to_owned()
}

/// A reason slug in words, as the end of "package `x` failed to build: …".
pub fn describe_reason(reason: &str) -> String {
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
        "builder-made-no-output" => "its builder ended without making its output",
        "output-refused" => "Nix refused what its builder made",
        "builder-failed" => "its builder failed",
        "hash-mismatch" => "a fixed-output derivation gave other contents than its hash says",
        DISK_FULL => DISK_FULL_TEXT,
        "timed-out" => "it took longer than the server's Nix settings allow",
        other => other,
    }
    .to_owned()
}
