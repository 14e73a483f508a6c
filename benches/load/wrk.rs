//! The load: wrk, put on two servers in turn.

use std::process::Command;

use crate::{ACCEPT, Result};

/// Fails with what to do where there is no wrk.
pub(crate) fn check() -> Result<()> {
    Command::new("wrk")
        .arg("--version")
        .output()
        .map(drop)
        .map_err(|error| {
            format!("cannot run wrk ({error}); `apt-get install wrk` installs it").into()
        })
}

/// So many connections for so many seconds.
pub(crate) struct Load {
    connections: u32,
    seconds: u32,
}

/// A server that is loaded.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) port: u16,
    /// The credentials that each request has.
    pub(crate) authorization: Option<&'static str>,
}

impl From<u16> for Target {
    fn from(port: u16) -> Self {
        Self {
            port,
            authorization: None,
        }
    }
}

/// What wrk saw.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) requests: f64,
    /// Bytes per second.
    pub(crate) bytes: f64,
    /// Milliseconds within which 99 of 100 answers came.
    pub(crate) p99: f64,
}

impl Load {
    pub(crate) const fn new(connections: u32, seconds: u32) -> Self {
        Self {
            connections,
            seconds,
        }
    }

    /// The medians of two servers, loaded in turn; each goes first in half of the rounds.
    pub(crate) fn compare(
        &self,
        rounds: usize,
        ours: impl Into<Target>,
        plain: impl Into<Target>,
        path: &str,
    ) -> Result<(Measured, Measured)> {
        let mut runs = [Vec::new(), Vec::new()];
        let targets = [ours.into(), plain.into()];
        for round in 0..rounds.max(1) {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                runs[which].push(self.run(targets[which], path)?);
            }
        }
        let [ours, plain] = runs;
        Ok((median(&ours), median(&plain)))
    }

    fn run(&self, target: Target, path: &str) -> Result<Measured> {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "--latency", "--timeout", "30s"])
            .arg(format!("-c{}", self.connections))
            .arg(format!("-d{}s", self.seconds))
            .args(["-H", &format!("Accept: {ACCEPT}")]);
        if let Some(authorization) = target.authorization {
            wrk.args(["-H", &format!("Authorization: {authorization}")]);
        }
        wrk.arg(format!("http://127.0.0.1:{}{path}", target.port));
        let output = wrk.output()?;
        let text = String::from_utf8(output.stdout)?;
        if !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
            return Err(format!("wrk met errors:\n{text}").into());
        }
        // Labels begin lines: wrk writes percentages of other things too.
        let after = |label: &str| {
            let mut lines = text.lines().map(str::trim_start);
            lines
                .find_map(|line| line.strip_prefix(label))
                .map(str::trim)
        };
        let field = |label| after(label).ok_or_else(|| format!("wrk says no {label}:\n{text}"));
        Ok(Measured {
            requests: field("Requests/sec:")?.parse()?,
            bytes: scaled(field("Transfer/sec:")?, &BYTES)?,
            p99: scaled(field("99%")?, &TIMES)?,
        })
    }
}

const BYTES: [(&str, f64); 5] = [
    ("TB", 1_099_511_627_776.0),
    ("GB", 1_073_741_824.0),
    ("MB", 1_048_576.0),
    ("KB", 1024.0),
    ("B", 1.0),
];
/// In milliseconds; `s` last, as all end with it.
const TIMES: [(&str, f64); 4] = [("us", 0.001), ("ms", 1.0), ("m", 60_000.0), ("s", 1000.0)];

fn scaled(text: &str, units: &[(&str, f64)]) -> Result<f64> {
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    Err(format!("wrk says {text:?}, in an unknown unit").into())
}

/// Each figure's median by itself.
fn median(runs: &[Measured]) -> Measured {
    let of = |figure: fn(&Measured) -> f64| {
        let mut figures: Vec<f64> = runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Measured {
        requests: of(|run| run.requests),
        bytes: of(|run| run.bytes),
        p99: of(|run| run.p99),
    }
}
