//! The plan's file: a line for each cluster, compressed with zstd.
//!
//! ```text
//! nixery cluster plan 1
//! revision nixos-25.05
//! samples 2000
//! bash 1890 readline 1902
//! git 160
//! ```
//!
//! Each line after the third is a cluster: its names, sorted bytewise, each followed by the number of samples
//! that have it. Clusters are sorted by their first name. So a plan has one text only, and `zstdcat` shows it.
//! A plan of 9,300 names takes some 57 kB.

use std::fmt::Write as _;
use std::io::{Read, Write};

use super::{ClusterPlan, ClusterPlanError, LineRule, cut};

/// Most bytes of a plan's file; that of a large package set has less than 2 MB.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// Most bytes of a plan's text.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

/// The first line, up to the number of the format.
const TITLE: &str = "nixery cluster plan ";
const VERSION: &str = "1";
/// A plan is written once and read often, and this level takes well under a second.
const LEVEL: i32 = 19;

impl ClusterPlan {
    /// Reads a plan's file.
    ///
    /// # Errors
    /// It is no such file, damaged, of another version, too large, or has something behind its end; or what
    /// [`ClusterPlan::new`] refuses.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ClusterPlanError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ClusterPlanError::TooLarge);
        }
        let text = decompress(bytes)?;
        let text = std::str::from_utf8(&text).map_err(|_| ClusterPlanError::NotAPlan)?;
        Self::from_text(text)
    }

    /// Reads a plan's text, as [`Self::to_text`] writes it: a plan has one text only.
    ///
    /// # Errors
    /// It is something else; or what [`ClusterPlan::new`] refuses.
    pub fn from_text(text: &str) -> Result<Self, ClusterPlanError> {
        parse(text)
    }

    /// The plan as a file: equal plans give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = self.to_text();
        let compress = || {
            let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
            // A known size keeps zstd's tables small.
            encoder.set_pledged_src_size(Some(text.len() as u64))?;
            encoder.include_checksum(true)?;
            encoder.write_all(text.as_bytes())?;
            encoder.finish()
        };
        compress().expect("zstd compresses from memory to memory")
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut clusters: Vec<Vec<usize>> = vec![Vec::new(); self.clusters()];
        for (position, package) in self.packages.iter().enumerate() {
            clusters[package.cluster as usize].push(position);
        }
        let Self {
            revision, samples, ..
        } = self;
        let mut text = format!("{TITLE}{VERSION}\nrevision {revision}\nsamples {samples}\n");
        for members in clusters {
            for (place, member) in members.into_iter().enumerate() {
                let package = &self.packages[member];
                let divider = if place == 0 { "" } else { " " };
                write!(text, "{divider}{} {}", package.name, package.samples)
                    .expect("a text takes more");
            }
            text.push('\n');
        }
        text
    }
}

/// The one frame that a file is.
fn decompress(bytes: &[u8]) -> Result<Vec<u8>, ClusterPlanError> {
    let mut decoder = zstd::Decoder::with_buffer(bytes)
        .map_err(ClusterPlanError::Damaged)?
        .single_frame();
    let mut text = Vec::new();
    (&mut decoder)
        .take(MAX_TEXT_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .map_err(ClusterPlanError::Damaged)?;
    if text.len() > MAX_TEXT_BYTES {
        return Err(ClusterPlanError::TooLarge);
    }
    match decoder.finish().len() {
        0 => Ok(text),
        bytes => Err(ClusterPlanError::Trailing { bytes }),
    }
}

fn parse(text: &str) -> Result<ClusterPlan, ClusterPlanError> {
    let wrong = |line: usize, rule| ClusterPlanError::Line {
        line: line + 1,
        rule,
    };
    let mut lines = text.split('\n').enumerate();
    let mut next = || lines.next().map_or("", |(_, line)| line);
    match next().strip_prefix(TITLE) {
        Some(VERSION) => {}
        Some(found) => return Err(ClusterPlanError::Version { found: cut(found) }),
        None => return Err(ClusterPlanError::NotAPlan),
    }
    let revision = next()
        .strip_prefix("revision ")
        .ok_or_else(|| wrong(1, LineRule::Revision))?;
    let samples = next()
        .strip_prefix("samples ")
        .and_then(number)
        .ok_or_else(|| wrong(2, LineRule::Samples))?;

    let mut packages = Vec::new();
    let mut ended = false;
    let mut previous = "";
    for (line, text) in lines {
        if ended {
            // The empty text behind the last line feed was not the last.
            return Err(wrong(line - 1, LineRule::Cluster));
        }
        if text.is_empty() {
            ended = true;
            continue;
        }
        let members = members(text).ok_or_else(|| wrong(line, LineRule::Cluster))?;
        let cluster = members[0].0;
        if cluster <= previous {
            return Err(wrong(line, LineRule::Order));
        }
        previous = cluster;
        packages.extend(
            members
                .iter()
                .map(|&(name, samples)| (name, cluster, samples)),
        );
    }
    if !ended {
        return Err(wrong(text.matches('\n').count(), LineRule::End));
    }
    ClusterPlan::of(revision.to_owned(), samples, packages)
}

/// The names of a line with their samples: at least one, ascending.
fn members(line: &str) -> Option<Vec<(&str, u32)>> {
    let mut words = line.split(' ');
    let mut members: Vec<(&str, u32)> = Vec::new();
    while let Some(name) = words.next() {
        let samples = number(words.next()?)?;
        if members.last().is_some_and(|&(last, _)| last >= name) {
            return None;
        }
        members.push((name, samples));
    }
    Some(members)
}

/// A whole number as it is written here: digits without a sign or leading zeros, so that a plan has one text.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}
