//! A registry that limits who may pull what.

use std::path::Path;
use std::process::Command;

use nixery_e2e::command::run;
use nixery_e2e::http::{self, Response};
use nixery_e2e::{NixCalls, Registry, RegistryOptions};
use tempfile::TempDir;

/// Packages that need neither a shell nor other packages, and are built at once.
const PACKAGES: &str = r#"{ ... }:
let
  empty = name: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "builtin:buildenv";
    derivations = "";
    manifest = "/";
  };
in {
  cacert = empty "cacert-1";
  iana-etc = empty "iana-etc-1";
  hello = empty "hello-1";
  git = empty "git-1";
  htop = empty "htop-1";
}
"#;

/// Pulls `hello` of two tags. The password has a colon, a space and letters that are not ASCII.
pub const ALICE: (&str, &str) = ("alice", "pä:ss wörd");
/// As `ALICE`.
pub const URSULA: (&str, &str) = ("Ursula", "Geheim-1");
/// Pulls everything, but starts one build in an hour.
pub const LIMITED: (&str, &str) = ("limited", "few-builds");
/// As `LIMITED`. A program, with a token as its password.
pub const CI: (&str, &str) = ("ci", "robot-0123456789abcdef");

/// Made by bcrypt with its least cost.
const USERS: &str = "\
alice:$2b$04$nixeryendtoendtests00.ZEtcRNb3BwlCAdCdiytDfYw6zm4beoS
Ursula:$2b$04$nixeryendtoendtests00.5Sa24sDroowH7mEUURcMziWqaclg6xq
limited:$2b$04$nixeryendtoendtests00.OqE33016Z1qdC9DaUFyyyTBapXy0sIK
";

const TOKENS: &str = "ci:robot-0123456789abcdef\n";

const POLICY: &str = r#"
[[allow]]
who = ["alice", "Ursula"]
packages = ["hello"]
tags = ["latest", "trunk"]

[[allow]]
who = ["ci", "limited"]
packages = ["*"]
builds-per-hour = 1
"#;

/// Everybody may pull `hello`.
pub const PUBLIC: &str = r#"
[[allow]]
who = ["*", "anonymous"]
packages = ["hello"]
"#;

/// The key of the server's own tokens.
pub const TOKEN_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINAt4UVIIavu2T8JM0zD7FGVYvICMqY38EGlhaoj90Ek
-----END PRIVATE KEY-----
";
/// The name of the registry in its tokens.
pub const SERVICE: &str = "registry.example";

/// How clients log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logins {
    /// With each request.
    Basic,
    /// For a token, which they send with each request.
    Tokens,
}

/// A registry with users and a policy, whose package source is a git repository with the branches
/// `trunk` and `other`.
pub struct Guarded {
    pub registry: Registry,
    calls: NixCalls,
    _folder: TempDir,
}

impl Guarded {
    pub fn start(logins: Logins) -> Self {
        Self::with(logins, "", &[])
    }

    /// The same with more rules and settings.
    pub fn with(logins: Logins, rules: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let policy = format!("{POLICY}{rules}");
        let file = |name: &str, contents: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, contents).expect("a scratch folder");
            path.display().to_string()
        };
        let calls = NixCalls::new();
        let mut options = RegistryOptions {
            packages: "".into(),
            ..RegistryOptions::demo()
        }
        .env("PATH", &calls.path())
        .env("NIXERY_PKGS_REPO", &repository(folder.path()))
        .env("NIXERY_HTPASSWD", &file("users", USERS))
        .env("NIXERY_TOKENS", &file("tokens", TOKENS))
        .env("NIXERY_POLICY", &file("policy.toml", &policy));
        if logins == Logins::Tokens {
            options = options
                .env("NIXERY_TOKEN_REALM", "self")
                .env("NIXERY_TOKEN_SERVICE", SERVICE)
                .env("NIXERY_TOKEN_KEY", &file("key.pem", TOKEN_KEY));
        }
        for (name, value) in settings {
            options = options.env(name, value);
        }
        Self {
            registry: Registry::start(options),
            calls,
            _folder: folder,
        }
    }

    /// The reference of an image with a tag.
    pub fn reference(&self, image: &str, tag: &str) -> String {
        format!("{}:{tag}", self.registry.reference(image))
    }

    /// Does something, and asserts that the registry evaluated, fetched and built nothing for it.
    #[track_caller]
    pub fn without_nix<T>(&self, action: impl FnOnce() -> T) -> T {
        let work = || ["nix-instantiate", "--realise", "fetch"].map(|text| self.calls.count(text));
        let before = work();
        let done = action();
        assert_eq!(work(), before, "evaluations, builds and fetches");
        done
    }

    /// The answer for the manifest of an image, to a user.
    #[track_caller]
    pub fn manifest(&self, user: Option<(&str, &str)>, image: &str, tag: &str) -> Response {
        let url = self.registry.url(&format!("/v2/{image}/manifests/{tag}"));
        let user = user.map(|(user, password)| format!("{user}:{password}"));
        match &user {
            Some(user) => http::request(&["--basic", "--user", user, &url]),
            None => http::get(&url),
        }
    }
}

/// Asserts how a request is refused: the status, the code and words of the message.
#[track_caller]
pub fn assert_refused(answer: &Response, status: u16, code: &str, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let error = &answer.json()["errors"][0];
    assert_eq!(error["code"], code);
    let message = error["message"].as_str().expect("a text");
    assert!(message.contains(words), "{message:?} has no {words:?}");
}

/// Makes the repository and returns its URL.
fn repository(folder: &Path) -> String {
    let set = folder.join("set");
    std::fs::create_dir(&set).expect("a new folder");
    std::fs::write(set.join("default.nix"), PACKAGES).expect("a new file");
    let git = |arguments: &[&str]| {
        run(Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
            .args(arguments)
            .current_dir(&set))
        .success()
    };
    git(&["init", "-q", "--initial-branch=trunk"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "First"]);
    git(&["branch", "other"]);
    format!("file://{}", set.display())
}
