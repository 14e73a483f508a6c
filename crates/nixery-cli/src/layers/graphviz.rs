//! Draws pictures with Graphviz.

use std::io::{self, Write};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Draws a graph as SVG with the program `dot`.
///
/// # Errors
/// The program is missing or fails.
pub(super) fn svg(dot: &str) -> Result<Vec<u8>> {
    let mut file = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
    file.write_all(dot.as_bytes())
        .context("cannot write a temporary file")?;
    let environment = nixery_nix::ChildEnvironment::inherited(&[]);
    let dot = Command::new("dot")
        .env_clear()
        .envs(environment.iter())
        .arg("-Tsvg")
        .arg(file.path())
        .output();
    let output = match dot {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "cannot draw SVG: there is no program `dot`. Fix: install Graphviz (apt-get install graphviz, or nix-shell -p graphviz), or use --format dot"
        ),
        output => output.context("cannot run Graphviz's dot")?,
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!(
            "Graphviz's dot failed ({}): {}",
            output.status,
            message.trim()
        );
    }
    Ok(output.stdout)
}
