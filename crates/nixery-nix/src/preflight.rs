//! Trying Nix out at start: what would fail later is said now, in one line each.

use std::io;
use std::time::{Duration, SystemTime};

use nixery_core::StorePath;

use super::cli::{NixCli, strings};
use super::log_format::NixLog;
use super::messages::unavailable;
use super::{Finding, NixError};
use crate::build_log::BuildLog;

/// Everything here is local and takes a fraction of a second.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The oldest Nix that is tested: Debian 12's.
const OLDEST: (u32, u32) = (2, 8);

/// A derivation that needs nothing but Nix: no shell in the sandbox, no package, no network. The
/// nonce makes Nix build it each time.
const TINY: &str = r#"{ nonce }: derivation {
  name = "nixery-preflight";
  system = builtins.currentSystem;
  builder = "builtin:buildenv";
  derivations = "";
  manifest = "/${nonce}";
  allowSubstitutes = false;
  preferLocalBuild = true;
}"#;

pub(super) async fn preflight(nix: &NixCli) -> Vec<Finding> {
    let mut findings = Vec::new();
    let out = BuildLog::default();
    let mut log = NixLog::new(&out);

    for program in ["nix-store", "nix-instantiate", "nix"] {
        match nix
            .run(program, strings(["--version"]), TIMEOUT, &mut log)
            .await
        {
            Ok(finished) if finished.status.success() => {
                let printed = String::from_utf8_lossy(&finished.stdout).trim().to_owned();
                if program == "nix-store" && version(&printed).is_none_or(|found| found < OLDEST) {
                    findings.push(Finding {
                        problem: format!(
                            "this is {printed:?}, older than Nix {}.{}",
                            OLDEST.0, OLDEST.1
                        ),
                        remedy: "install a newer one: https://nixos.org/download".to_owned(),
                        fatal: false,
                    });
                }
            }
            Ok(_) => findings.push(store_finding("run", &log, &out)),
            Err(error) => findings.push(not_started(program, &error)),
        }
        if findings.iter().any(|finding| finding.fatal) {
            return findings;
        }
    }
    if let Err(finding) = tiny_build(nix).await {
        findings.push(finding);
    }
    findings
}

async fn tiny_build(nix: &NixCli) -> Result<(), Finding> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nonce = format!(
        "{}-{}",
        std::process::id(),
        now.unwrap_or_default().as_nanos()
    );
    let out = BuildLog::default();
    let mut log = NixLog::new(&out);
    let args = strings([
        "--log-format",
        "internal-json",
        "--expr",
        TINY,
        "--argstr",
        "nonce",
        &nonce,
    ]);
    let finished = nix.run("nix-instantiate", args, TIMEOUT, &mut log).await;
    let finished = finished.map_err(|error| not_started("nix-instantiate", &error))?;
    if !finished.status.success() {
        return Err(store_finding("evaluate a derivation", &log, &out));
    }
    let derivation = String::from_utf8_lossy(&finished.stdout).trim().to_owned();

    let mut log = NixLog::new(&out);
    let args = strings(["--realise", "--log-format", "internal-json", &derivation]);
    let finished = nix.run("nix-store", args, TIMEOUT, &mut log).await;
    let finished = finished.map_err(|error| not_started("nix-store", &error))?;
    if !finished.status.success() {
        return Err(store_finding("build a derivation", &log, &out));
    }
    let built = String::from_utf8_lossy(&finished.stdout).trim().to_owned();
    let files = StorePath::parse(&built).map(|path| nix.store().locate(&path));
    if files.is_ok_and(|files| files.symlink_metadata().is_ok()) {
        return Ok(());
    }
    Err(Finding {
        problem: format!(
            "Nix can build, but what it built is not below {}: its store is elsewhere",
            nix.store().prefix().display()
        ),
        remedy: "name the store in NIXERY_NIX_STORE (--nix-store), for instance local?root=/mnt/nix; it must be on \
                 this machine"
            .to_owned(),
        fatal: true,
    })
}

fn not_started(program: &str, error: &NixError) -> Finding {
    match error {
        NixError::Process { source, .. } if source.kind() == io::ErrorKind::NotFound => Finding {
            problem: format!("Nix is not installed: there is no `{program}` in PATH"),
            remedy: "on Debian and Ubuntu `apt-get install nix-bin`; elsewhere see https://nixos.org/download"
                .to_owned(),
            fatal: true,
        },
        NixError::Process { source, .. } => Finding {
            problem: format!("`{program}` cannot be run: {source}"),
            remedy: "let this user execute Nix".to_owned(),
            fatal: true,
        },
        error => Finding {
            problem: format!("`{program}` does not answer: {error}"),
            remedy: "try it by hand as the user this server runs as".to_owned(),
            fatal: true,
        },
    }
}

fn store_finding(doing: &str, log: &NixLog<'_>, out: &BuildLog) -> Finding {
    let text = log
        .errors
        .first()
        .map_or_else(|| out.tail(1).join(" "), |error| error.text.clone());
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    finding(doing, text, rustix::process::geteuid().is_root())
}

fn finding(doing: &str, text: &str, root: bool) -> Finding {
    let remedy = match unavailable(text) {
        Some(problem) if problem.contains("daemon") => {
            "start nix-daemon and let this user talk to it (on Debian: install nix-setup-systemd, add the user to group nix-users)"
        }
        Some(problem) if problem.contains("build group") => {
            "create group nixbld with members, or set NIX_CONFIG='build-users-group =' to build as this user"
        }
        Some(problem) if problem.contains("sandbox") => {
            "allow user namespaces here, or set NIX_CONFIG='sandbox = false'"
        }
        Some(problem) if problem.contains("disk") => "free space below /nix",
        Some(problem) if problem.contains("not accessible") && !root => {
            "run as root, or start nix-daemon, or make /nix writable for this user"
        }
        Some(problem) if problem.contains("not accessible") => "make /nix writable",
        _ => "run `nix-build --expr '(import <nixpkgs> {}).hello'` by hand to see more",
    };
    Finding {
        problem: format!("Nix cannot {doing}: {text}"),
        remedy: remedy.to_owned(),
        fatal: true,
    }
}

/// `nix-store (Nix) 2.8.0` → (2, 8).
fn version(printed: &str) -> Option<(u32, u32)> {
    let number = printed.lines().next()?.rsplit(' ').next()?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("nix-store (Nix) 2.8.0", Some((2, 8)))]
    #[case("nix-store (Nix) 2.26.3\n", Some((2, 26)))]
    #[case("nix-store (Nix) 3.0pre20250101_abcdef", Some((3, 0)))]
    #[case("nix-store (Lix, like Nix) 2.91.1", Some((2, 91)))]
    #[case("", None)]
    #[case("what?", None)]
    fn versions(#[case] printed: &str, #[case] found: Option<(u32, u32)>) {
        assert_eq!(version(printed), found);
    }

    #[rstest]
    #[case(
        "cannot connect to socket at '/nix/var/nix/daemon-socket/socket': No such file",
        false,
        "nix-daemon"
    )]
    #[case(
        "the group 'nixbld' specified in 'build-users-group' does not exist",
        true,
        "build-users-group ="
    )]
    #[case(
        "could not set permissions on '/nix/var/nix/profiles/per-user' to 755: Operation not permitted",
        false,
        "run as root"
    )]
    #[case(
        "cloning builder process: Operation not permitted",
        true,
        "sandbox = false"
    )]
    #[case("writing to file: No space left on device", true, "free space")]
    #[case("something new", true, "by hand")]
    fn remedies(#[case] text: &str, #[case] root: bool, #[case] remedy: &str) {
        let finding = finding("build a derivation", text, root);
        assert!(finding.remedy.contains(remedy), "{finding:?}");
        assert!(finding.problem.contains(text) && finding.fatal);
        assert!(!finding.problem.contains('\n') && !finding.remedy.contains('\n'));
    }
}
