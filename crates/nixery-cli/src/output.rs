//! Reads input, writes results to standard output or atomically to a file, and notes to standard
//! error.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nixery_config::unknown_variables;
use serde::Serialize;

/// Reads a file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    if path != Path::new("-") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let mut bytes = Vec::new();
    let read = io::stdin().read_to_end(&mut bytes);
    read.context("cannot read standard input")?;
    Ok(bytes)
}

/// Writes `bytes` to the file, or to standard output. A file is replaced atomically.
pub(crate) fn write(file: Option<&Path>, bytes: &[u8]) -> Result<()> {
    let Some(path) = file.filter(|path| *path != Path::new("-")) else {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        return Ok(());
    };
    // A device or a pipe cannot be replaced.
    if fs::metadata(path).is_ok_and(|file| !file.is_file()) {
        return fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()));
    }
    let parent = folder_of(path);
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".nixery-")
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(parent)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        io::Result::Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The folder that a file is in.
pub(crate) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Parses the name of a file that a command writes besides its result on standard output.
pub(crate) fn file(name: &str) -> Result<PathBuf, String> {
    match name {
        "" => Err("the name of the file is empty".to_owned()),
        "-" => Err("the result of the command is on standard output. Fix: name a file".to_owned()),
        name => Ok(name.into()),
    }
}

/// Prints the result of a command: indented JSON, or the text without it. Both end with one
/// newline.
pub(crate) fn result(
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<()> {
    let text = if json {
        serde_json::to_string_pretty(value)?
    } else {
        text()
    };
    write(
        None,
        format!("{}\n", text.trim_end_matches('\n')).as_bytes(),
    )
}

/// Prints a line to standard error. A closed standard error is not an error.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Warns of settings that have no effect, and of variables that are not settings.
pub(crate) fn warn<'a>(ignored: impl IntoIterator<Item = &'a String>) {
    let unknown = unknown_variables();
    for warning in ignored.into_iter().cloned().chain(unknown) {
        note(&format!("warning: {warning}"));
    }
}
