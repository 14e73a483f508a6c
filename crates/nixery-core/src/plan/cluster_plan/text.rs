//! The text of a plan: a line for each cluster.
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
//! that have it. Clusters are sorted by their first name. So a plan has one text only.

use std::fmt::Write as _;

use super::{ClusterPlan, ClusterPlanError, LineRule, cut};

/// The first line, up to the number of the format.
const TITLE: &str = "nixery cluster plan ";
const VERSION: &str = "1";

impl ClusterPlan {
    /// Reads a plan's text, as [`Self::to_text`] writes it: a plan has one text only.
    ///
    /// # Errors
    /// It is something else; or what [`ClusterPlan::new`] refuses.
    pub fn from_text(text: &str) -> Result<Self, ClusterPlanError> {
        parse(text)
    }

    /// The plan as text, which `zstdcat` shows of a plan's file.
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
