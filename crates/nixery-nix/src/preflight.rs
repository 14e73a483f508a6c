//! Checks at start whether Nix works: what would fail later is reported now, in one line each.

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use nixery_core::{Architecture, PackageSource, StorePath, Tag};

use crate::answer::parse_image;
use crate::build_log::BuildLog;
use crate::cli::{NixCli, strings};
use crate::code::ENTRY;
use crate::environment::ChildEnvironment;
use crate::evaluation::PackageSet;
use crate::log_format::NixLog;
use crate::messages::obstacle;
use crate::{Finding, NixError};

/// Everything here is local and takes a fraction of a second.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The oldest Nix that is tested: Debian 12's.
const OLDEST: (u32, u32) = (2, 8);

/// The package of [`package_set`].
const TINY: &str = "nixery-preflight";

/// A package set with one derivation that needs nothing but Nix: no shell in the sandbox, no
/// package, no network. With the nonce Nix builds it each time.
fn package_set(nonce: &str) -> String {
    format!(
        r#"{{ ... }}: {{
  {TINY} = derivation {{
    name = "{TINY}";
    system = builtins.currentSystem;
    builder = "builtin:buildenv";
    derivations = "";
    manifest = "/{nonce}";
    allowSubstitutes = false;
    preferLocalBuild = true;
  }};
}}"#
    )
}

pub(crate) async fn preflight(nix: &NixCli) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(fatal) = check(nix, &mut findings).await {
        findings.push(fatal);
    }
    findings
}

/// Collects warnings, and ends with the first fatal finding.
async fn check(nix: &NixCli, warnings: &mut Vec<Finding>) -> Result<(), Finding> {
    for program in ["nix-store", "nix-instantiate", "nix"] {
        let printed = printed_by(nix, program, strings(["--version"]), "run").await?;
        if program == "nix-store" && version(&printed).is_none_or(|found| found < OLDEST) {
            let (major, minor) = OLDEST;
            warnings.push(Finding::warning(
                format!("{printed:?} is installed, which is older than Nix {major}.{minor}"),
                "install a newer version: https://nixos.org/download",
            ));
        }
    }
    if nix.config.needs_git {
        check_git(nix).await?;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos();
    let nonce = format!("{}-{nanos}", std::process::id());
    let derivation = evaluated(nix, &package_set(&nonce)).await?;
    let args = strings(["--realise", &derivation, "--log-format", "internal-json"]);
    let built = printed_by(nix, "nix-store", args, "build a derivation").await?;

    let root = &nix.store_root;
    let files = StorePath::parse(&built).map(|path| root.locate(&path));
    if files.is_ok_and(|files| files.symlink_metadata().is_ok()) {
        return Ok(());
    }
    Err(Finding::fatal(
        format!(
            "Nix builds into another store: the result of a test build is not below {}",
            root.prefix().display()
        ),
        "set NIXERY_NIX_STORE (--nix-store) to the store, for example local?root=/mnt/nix; it must \
         be on this machine",
    ))
}

/// Checks the git that makes mirrors, which runs without a wrapper.
async fn check_git(nix: &NixCli) -> Result<(), Finding> {
    let problem = match nix.mirrors.check_git().await {
        Ok(()) => return Ok(()),
        Err(NixError::Process { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            "git is not installed: there is no `git` in PATH".to_owned()
        }
        Err(error) => format!("`git` cannot be run: {error}"),
    };
    Err(Finding::fatal(
        problem,
        "install it, for example with `apt-get install git`: the package source is a git repository",
    ))
}

/// Evaluates the package of a set as an image is evaluated, and returns its derivation.
async fn evaluated(nix: &NixCli, set: &str) -> Result<String, Finding> {
    let doing = "evaluate a derivation";
    let written = nix.instance.make(|dir| {
        let mut builder = tempfile::Builder::new();
        let mut file = builder
            .prefix("preflight-")
            .suffix(".nix")
            .tempfile_in(dir)?;
        file.write_all(set.as_bytes())?;
        Ok(file)
    });
    let file = written.map_err(|error| {
        Finding::fatal(
            format!("the spool directory cannot be used: {error}"),
            "let this user write there, and free space",
        )
    })?;
    let source =
        PackageSource::path(file.path()).map_err(|error| failed(doing, &error.to_string()))?;
    let source = PackageSet::of(&source.resolve(&Tag::latest()));
    let packages = [TINY.to_owned()];
    let names = ("packages", serde_json::json!(packages));
    let access = nix.strictest_access();
    let args = nix.evaluation(ENTRY, &source, Architecture::default(), names, access);
    let args = args.map_err(|error| failed(doing, &error.to_string()))?;
    let env = nix.evaluation_environment(access).await;
    let answer = printed_in(nix, env, "nix-instantiate", args, doing).await?;
    let mut evaluation = parse_image(answer.as_bytes(), &packages)
        .map_err(|error| failed(doing, &error.to_string()))?;
    let package = evaluation.packages.pop();
    Ok(package
        .map(|package| package.derivation)
        .unwrap_or_default())
}

/// Runs a program of Nix, and returns what it prints.
async fn printed_by(
    nix: &NixCli,
    program: &'static str,
    args: Vec<OsString>,
    doing: &str,
) -> Result<String, Finding> {
    let env = nix.environment.clone();
    printed_in(nix, env, program, args, doing).await
}

async fn printed_in(
    nix: &NixCli,
    env: ChildEnvironment,
    program: &'static str,
    args: Vec<OsString>,
    doing: &str,
) -> Result<String, Finding> {
    let out = BuildLog::default();
    let mut log = NixLog::new(&out);
    let finished = nix.run_in(env, program, args, TIMEOUT, &mut log).await;
    let finished = finished.map_err(|error| match nix.wrapper() {
        Some(wrapper) => wrapper_not_started(wrapper, program, &error),
        None => not_started(program, &error),
    })?;
    if finished.status.success() {
        return Ok(String::from_utf8_lossy(&finished.stdout).trim().to_owned());
    }
    let text = log
        .errors
        .first()
        .map_or_else(|| out.tail(1).join(" "), |error| error.text.clone());
    let line = text.lines().next().unwrap_or_default();
    Err(failed(doing, line.strip_prefix("error: ").unwrap_or(line)))
}

fn wrapper_not_started(wrapper: &str, program: &str, error: &NixError) -> Finding {
    match error {
        NixError::Process { source, .. } => Finding::fatal(
            format!("the wrapper `{wrapper}` for Nix cannot be run: {source}"),
            "install it, or correct or unset NIXERY_NIX_WRAPPER (--nix-wrapper)",
        ),
        error => not_started(program, error),
    }
}

fn not_started(program: &str, error: &NixError) -> Finding {
    match error {
        NixError::Process { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Finding::fatal(
                format!("Nix is not installed: there is no `{program}` in PATH"),
                "install it: on Debian and Ubuntu with `apt-get install nix-bin`, elsewhere as in \
                 https://nixos.org/download",
            )
        }
        NixError::Process { source, .. } => Finding::fatal(
            format!("`{program}` cannot be run: {source}"),
            "let this user execute Nix",
        ),
        error => Finding::fatal(
            format!("`{program}` does not answer: {error}"),
            "run it by hand as the user of this server to see more",
        ),
    }
}

fn failed(doing: &str, text: &str) -> Finding {
    let remedy = obstacle(text).and_then(|obstacle| obstacle.remedy);
    let by_hand = "run `nix-build --expr '(import <nixpkgs> {}).hello'` by hand to see more";
    Finding::fatal(
        format!("Nix cannot {doing}: {text}"),
        remedy.unwrap_or(by_hand),
    )
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
        "nix-daemon"
    )]
    #[case(
        "the group 'nixbld' specified in 'build-users-group' does not exist",
        "build-users-group ="
    )]
    #[case(
        "could not set permissions on '/nix/var/nix/profiles/per-user' to 755: Operation not permitted",
        "run as root"
    )]
    #[case("cloning builder process: Operation not permitted", "sandbox = false")]
    #[case("writing to file: No space left on device", "free space")]
    #[case("something new", "by hand")]
    fn remedies(#[case] text: &str, #[case] remedy: &str) {
        let finding = failed("build a derivation", text);
        assert!(finding.remedy.contains(remedy), "{finding:?}");
        assert!(finding.problem.contains(text) && finding.fatal);
        assert!(!finding.problem.contains('\n') && !finding.remedy.contains('\n'));
    }
}
