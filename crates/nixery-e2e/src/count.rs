//! Counting how often the registry really runs Nix or git.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder of wrappers that note each call of a Nix program, or of git, before they become it.
#[derive(Debug)]
pub struct NixCalls {
    folder: TempDir,
}

impl NixCalls {
    /// Makes the wrappers.
    ///
    /// # Panics
    /// A program is not installed.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self::with_evaluations_of(0)
    }

    /// The same, and each evaluation takes this number of seconds more.
    ///
    /// # Panics
    /// A program is not installed.
    pub fn with_evaluations_of(seconds: u32) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        for program in ["nix", "nix-store", "nix-instantiate", "git"] {
            let real = which(program)
                .unwrap_or_else(|| panic!("{program} is not installed; run `scripts/setup test`"));
            let wrapper = folder.path().join(program);
            let pause = match (program, seconds) {
                ("nix-instantiate", 1..) => format!("sleep {seconds}\n"),
                _ => String::new(),
            };
            let script = format!(
                "#!/bin/sh\necho \"{program} $*\" >>'{}'\n{pause}exec '{}' \"$@\"\n",
                folder.path().join("calls").display(),
                real.display()
            );
            std::fs::write(&wrapper, script).expect("the scratch folder is writable");
            std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))
                .expect("our own file");
        }
        Self { folder }
    }

    /// The `PATH` that puts the wrappers first.
    pub fn path(&self) -> String {
        format!(
            "{}:{}",
            self.folder.path().display(),
            std::env::var("PATH").unwrap_or_default()
        )
    }

    /// How many calls so far hold the text.
    pub fn count(&self, text: &str) -> usize {
        let calls = std::fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        calls.lines().filter(|call| call.contains(text)).count()
    }
}

fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
