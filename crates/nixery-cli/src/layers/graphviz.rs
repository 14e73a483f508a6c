//! Draws pictures with Graphviz.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Draws a graph as SVG with the program `dot`.
pub(super) fn svg(dot: String) -> Result<Vec<u8>> {
    let spawned = Command::new("dot")
        .arg("-Tsvg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "cannot draw SVG: there is no program `dot`. Fix: install Graphviz (apt-get install graphviz, or nix-shell -p graphviz), or use --format dot"
        ),
        other => other.context("cannot run Graphviz's dot")?,
    };
    let stdin = child.stdin.take();
    // `dot` writes while it reads: without a second thread both programs could wait for each other.
    let feeder = std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(dot.as_bytes())));
    let output = child
        .wait_with_output()
        .context("cannot run Graphviz's dot")?;
    let _ = feeder.join();
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
