//! The environment of the programs that this one starts. It is built up from an allow-list, because
//! strangers choose the code that Nix evaluates and builds.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nixery_core::manifest::Digest;

/// Variables that children inherit: what programs need to find their files, and the network.
const NAMES: &[&str] = &[
    "CURL_CA_BUNDLE",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOCALE_ARCHIVE",
    "LOGNAME",
    "PATH",
    "SSH_AUTH_SOCK",
    "TERM",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "USER",
];
/// Proxies, whose names are in upper or lower case.
const PROXIES: &[&str] = &[
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// What the names of other inherited variables begin with.
const PREFIXES: &[&str] = &["GIT_", "LC_", "NIX_", "SSL_CERT_", "XDG_"];
/// Variables that make git work on another repository than the one in its arguments, or on a part
/// of it. A hook of git, for example, has them. They are those of `git rev-parse --local-env-vars`,
/// except configuration, and two more.
const REPOSITORY: &[&str] = &[
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REFERENCE_BACKEND",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];
/// Settings of the registry whose names begin like variables of Nix. A URL may hold a password.
const SETTINGS: &[&str] = &["NIX_POPULARITY_URL", "NIX_TIMEOUT"];

/// The complete environment of a child process.
///
/// ```
/// use nixery_nix::ChildEnvironment;
///
/// let environment = ChildEnvironment::inherited(&[]).with("LC_ALL", "C.UTF-8");
/// let mut command = std::process::Command::new("git");
/// command.env_clear().envs(environment.iter());
/// # assert!(environment.iter().all(|(name, _)| name != "CARGO_PKG_NAME"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ChildEnvironment(BTreeMap<OsString, OsString>);

/// Shows the names alone. Values may be secret, such as access tokens in `NIX_CONFIG`.
impl fmt::Debug for ChildEnvironment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl ChildEnvironment {
    /// Returns the variables of this process that children may have: those that Nix, git and the
    /// network need, and those that `more` names. A `*` at the end of a name stands for any text.
    #[must_use]
    pub fn inherited(more: &[String]) -> Self {
        Self::selected(std::env::vars_os(), more)
    }

    fn selected(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        more: &[String],
    ) -> Self {
        let variables = variables.into_iter();
        Self(
            variables
                .filter(|(name, _)| is_inherited(name, more))
                .collect(),
        )
    }

    /// Sets a variable, whether it was set or not.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Sets a variable that is not set.
    #[must_use]
    pub fn with_default(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.0.entry(name.into()).or_insert_with(|| value.into());
        self
    }

    /// Returns the value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Returns all variables, for `Command::envs`.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let variables = self.0.iter();
        variables.map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Returns a digest of the variables whose names match patterns, or `None` if there are none.
    pub(crate) fn digest_of(&self, patterns: &[String]) -> Option<Digest> {
        let named: Vec<_> = self
            .0
            .iter()
            .filter(|(name, _)| is_named(name, patterns))
            .map(|(name, value)| (name.as_encoded_bytes(), value.as_encoded_bytes()))
            .collect();
        if named.is_empty() {
            return None;
        }
        let json = serde_json::to_vec(&named).expect("pairs of bytes serialise to JSON");
        Some(Digest::of(&json))
    }

    /// Returns the program that a child with this environment would run by this name or path, if
    /// there is one.
    pub(crate) fn program(&self, name: &OsStr) -> Option<PathBuf> {
        let executable = |file: &PathBuf| {
            let metadata = file.metadata();
            metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        if name.as_encoded_bytes().contains(&b'/') {
            return Some(PathBuf::from(name)).filter(executable);
        }
        let path = self.get("PATH")?;
        let mut files = std::env::split_paths(path).map(|folder| folder.join(name));
        files.find(executable)
    }
}

fn is_inherited(name: &OsStr, more: &[String]) -> bool {
    // No name in the lists has other characters.
    let Some(name) = name.to_str() else {
        return false;
    };
    let needed = NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || PROXIES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy));
    is_named(OsStr::new(name), more)
        || needed && !SETTINGS.contains(&name) && !REPOSITORY.contains(&name)
}

/// Whether a name matches a pattern, whose `*` at the end stands for any text.
fn is_named(name: &OsStr, patterns: &[String]) -> bool {
    let name = name.to_str();
    let is_it = |name: &str| {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        patterns.iter().any(matches)
    };
    name.is_some_and(is_it)
}

/// Hides the memory and the environment of this process from other processes of its user, which
/// could read them below `/proc` or with a debugger. It also prevents core dumps.
///
/// # Errors
/// The system does not allow it.
pub fn hide_process_memory() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("PATH", true)]
    #[case("HOME", true)]
    #[case("LC_ALL", true)]
    #[case("NIX_CONFIG", true)]
    #[case("NIX_SSL_CERT_FILE", true)]
    #[case("GIT_SSH_COMMAND", true)]
    #[case("GIT_CONFIG_COUNT", true)]
    #[case("GIT_CONFIG_PARAMETERS", true)]
    #[case("GIT_CONFIG_KEY_0", true)]
    #[case("GIT_DIR", false)]
    #[case("GIT_INDEX_FILE", false)]
    #[case("GIT_NAMESPACE", false)]
    #[case("GIT_QUARANTINE_PATH", false)]
    #[case("https_proxy", true)]
    #[case("HTTPS_PROXY", true)]
    #[case("XDG_CACHE_HOME", true)]
    #[case("AWS_SECRET_ACCESS_KEY", false)]
    #[case("AWS_WEB_IDENTITY_TOKEN_FILE", false)]
    #[case("GOOGLE_APPLICATION_CREDENTIALS", false)]
    #[case("NIXERY_PKGS_REPO", false)]
    #[case("NIXERY_TRAFFIC_SALT", false)]
    #[case("NIXPKGS_ALLOW_UNFREE", false)]
    #[case::setting_like_a_variable_of_nix("NIX_POPULARITY_URL", false)]
    #[case("LD_PRELOAD", false)]
    #[case("DATABASE_PASSWORD", false)]
    #[case("path", false)]
    fn children_inherit_what_they_need(#[case] name: &str, #[case] inherited: bool) {
        assert_eq!(is_inherited(OsStr::new(name), &[]), inherited);
    }

    #[rstest]
    #[case("NIXPKGS_ALLOW_UNFREE", true)]
    #[case("NIXPKGS_ALLOW_UNFREE_2", false)]
    #[case("AWS_PROFILE", true)]
    #[case("NIXERY_PKGS_REPO", false)]
    fn more_variables_can_be_named(#[case] name: &str, #[case] inherited: bool) {
        let more = ["NIXPKGS_ALLOW_UNFREE".to_owned(), "AWS_*".to_owned()];
        assert_eq!(is_inherited(OsStr::new(name), &more), inherited);
    }

    #[test]
    #[ignore = "needs git: run make test"]
    fn no_variable_of_a_repository_is_inherited() {
        let git = std::process::Command::new("git")
            .args(["rev-parse", "--local-env-vars"])
            .output()
            .expect("git runs");
        let names = String::from_utf8(git.stdout).expect("UTF-8");
        assert!(names.contains("GIT_DIR"), "{names}");
        for name in names.lines() {
            let is_configuration = ["GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS"].contains(&name);
            assert_eq!(
                is_inherited(OsStr::new(name), &[]),
                is_configuration,
                "{name}"
            );
        }
    }

    #[test]
    fn only_names_are_shown() {
        let environment = ChildEnvironment::default().with("NIX_CONFIG", "access-tokens = secret");
        assert_eq!(format!("{environment:?}"), r#"{"NIX_CONFIG"}"#);
    }

    #[test]
    fn a_default_does_not_replace_a_value() {
        let variables = [("GIT_SSH_COMMAND".into(), "ssh -i key".into())];
        let environment = ChildEnvironment::selected(variables, &[])
            .with_default("GIT_SSH_COMMAND", "ssh")
            .with_default("TERM", "dumb");
        let expected = [("GIT_SSH_COMMAND", "ssh -i key"), ("TERM", "dumb")];
        let expected = expected.map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
        assert!(environment.iter().eq(expected), "{environment:?}");
    }

    #[test]
    fn the_digest_covers_names_and_values_of_named_variables() {
        let base = || ChildEnvironment::default().with("PATH", "/bin");
        let patterns = ["NIXPKGS_*".to_owned(), "OTHER".to_owned()];
        let digest = |environment: ChildEnvironment| environment.digest_of(&patterns);
        assert_eq!(digest(base()), None);
        let mut digests = vec![
            digest(base().with("NIXPKGS_ALLOW_UNFREE", "1")),
            digest(base().with("NIXPKGS_ALLOW_UNFREE", "0")),
            digest(base().with("NIXPKGS_ALLOW_UNFREE", "")),
            digest(base().with("NIXPKGS_ALLOW_BROKEN", "1")),
            digest(base().with("NIXPKGS_A", "1").with("OTHER", "2")),
            digest(base().with("NIXPKGS_A", "1OTHER2")),
        ];
        let same = digest(base().with("NIXPKGS_ALLOW_UNFREE", "1").with("TERM", "x"));
        assert_eq!(same, digests[0], "other variables do not count");
        assert!(digests.iter().all(Option::is_some));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 6);
    }

    #[test]
    fn programs_are_found_in_the_childs_path() {
        let found = |path: &str, name: &str| {
            let environment = ChildEnvironment::default().with("PATH", path);
            environment.program(OsStr::new(name))
        };
        let folder = tempfile::tempdir().expect("temp dir");
        std::fs::write(folder.path().join("sh"), "not executable").expect("write");
        let path = format!("{}:/bin", folder.path().display());
        assert_eq!(found(&path, "sh"), Some("/bin/sh".into()));
        assert_eq!(found("/nonexistent", "/bin/sh"), Some("/bin/sh".into()));
        assert_eq!(found("/nonexistent", "sh"), None);
        assert_eq!(found("/bin", "./sh"), None);
    }
}
