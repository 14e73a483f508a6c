//! Pictures by Graphviz.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Has Graphviz draw it.
pub(super) fn svg(dot: String) -> Result<Vec<u8>> {
    let spawned = Command::new("dot")
        .arg("-Tsvg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "SVG needs Graphviz, and there is no dot program: install it (apt-get install graphviz, or nix-shell -p graphviz), or use --format dot"
        ),
        other => other.context("cannot run Graphviz's dot")?,
    };
    let stdin = child.stdin.take();
    // It writes while it reads: one thread each, or both would wait.
    let feeder = std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(dot.as_bytes())));
    let output = child
        .wait_with_output()
        .context("cannot run Graphviz's dot")?;
    let _ = feeder.join();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("Graphviz's dot failed ({}): {}", output.status, said.trim());
    }
    Ok(output.stdout)
}
