//! What must be there before anything can be measured.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::Result;

/// The programs, the package set, and a place for files.
pub(crate) struct Setup {
    programs: PathBuf,
    pub(crate) packages: PathBuf,
    scratch: PathBuf,
}

impl Setup {
    /// Finds all of it.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub(crate) fn find() -> Result<Self> {
        // Benchmarks lie in target/release/deps.
        let this = env::current_exe()?;
        let programs = this.ancestors().nth(2).ok_or("this program lies nowhere")?;
        for program in ["nixery", "nixery-server"] {
            if !programs.join(program).is_file() {
                return Err(format!(
                    "{program} is not in {}: run `cargo build --release --workspace --bins` first",
                    programs.display()
                )
                .into());
            }
        }
        let target = programs.parent().ok_or("the programs lie nowhere")?;
        let scratch = target.join("bench");
        std::fs::create_dir_all(&scratch)?;

        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let checkout = checkout.ok_or("the benchmarks lie nowhere")?;
        let packages = checkout.join("target/demo/set");
        if !packages.join("default.nix").is_file() {
            return Err("there is no demo package set: run `scripts/demo-set` first".into());
        }
        let nix = Command::new("nix-store")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        if !nix.is_ok_and(|status| status.success()) {
            return Err(
                "Nix does not run: run `scripts/setup demo`, and `. scripts/nix-env`".into(),
            );
        }
        Ok(Self {
            programs: programs.to_owned(),
            packages: packages.canonicalize()?,
            scratch,
        })
    }

    /// An empty folder on the file system of the build, gone when dropped.
    pub(crate) fn folder(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(&self.scratch)?)
    }

    /// A program over a package set and a folder for the blob store, with nothing else configured.
    pub(crate) fn command(&self, program: &str, packages: &Path, folder: &Path) -> Command {
        let mut command = Command::new(self.programs.join(program));
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("NIXERY_") {
                command.env_remove(name);
            }
        }
        command
            .env("NIXERY_PKGS_PATH", packages)
            .env("NIXERY_STORAGE_BACKEND", "filesystem")
            .env("STORAGE_PATH", folder)
            .stdin(Stdio::null());
        command
    }
}
