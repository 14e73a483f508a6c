//! Results: to standard output, or whole into a file.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nixery_config::unknown_variables;

/// Writes `bytes` to the file, replacing it when they are all there, or to standard output.
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
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
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

/// The name of a file for what a command writes besides its results, which are on standard output.
pub(crate) fn file(name: &str) -> Result<PathBuf, String> {
    match name {
        "" => Err("a file has a name".to_owned()),
        "-" => Err("standard output has the command's results: name a file".to_owned()),
        name => Ok(name.into()),
    }
}

/// Prints JSON for machines, indented and with a last newline.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    write(None, &bytes)
}

/// Prints text, with a last newline.
pub(crate) fn text(text: &str) -> Result<()> {
    write(
        None,
        format!("{}\n", text.trim_end_matches('\n')).as_bytes(),
    )
}

/// Prints a line to standard error. Where nobody reads it any more, the work goes on without.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Warns of settings that do nothing, and of variables that are no settings.
pub(crate) fn warn<'a>(ignored: impl IntoIterator<Item = &'a String>) {
    let unknown = unknown_variables();
    for warning in ignored.into_iter().cloned().chain(unknown) {
        note(&format!("warning: {warning}"));
    }
}
