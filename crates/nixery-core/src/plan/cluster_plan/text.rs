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
//! Each line after the third is a cluster: its names, sorted bytewise, each followed by the number
//! of samples that have it. Clusters are sorted by their first name. So a plan has only one text.

use std::fmt::Write as _;

use super::{ClusterPlan, ClusterPlanError, cut};

/// The first line, up to the number of the format.
const TITLE: &str = "nixery cluster plan ";
const VERSION: &str = "1";

/// The rule of the lines after the third.
const CLUSTER_RULE: &str =
    "it must be the cluster's names, sorted, each with its samples, separated by one space";

impl ClusterPlan {
    /// Reads a plan's text, as [`Self::to_text`] writes it: a plan has only one text.
    ///
    /// # Errors
    /// The text is not of this format, or [`ClusterPlan::new`] refuses what it says.
    pub fn from_text(text: &str) -> Result<Self, ClusterPlanError> {
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
            .ok_or_else(|| wrong(1, "it must be `revision ` and a text"))?;
        let samples = next()
            .strip_prefix("samples ")
            .and_then(number)
            .ok_or_else(|| wrong(2, "it must be `samples ` and a whole number"))?;

        let mut packages = Vec::new();
        let mut ended = false;
        let mut previous = "";
        for (line, text) in lines {
            if ended {
                // An empty line came before the last one.
                return Err(wrong(line - 1, CLUSTER_RULE));
            }
            if text.is_empty() {
                ended = true;
                continue;
            }
            let members = members(text).ok_or_else(|| wrong(line, CLUSTER_RULE))?;
            let cluster = members[0].0;
            if cluster <= previous {
                return Err(wrong(line, "clusters must be sorted by their first name"));
            }
            previous = cluster;
            packages.extend(
                members
                    .iter()
                    .map(|&(name, samples)| (name, cluster, samples)),
            );
        }
        if !ended {
            return Err(wrong(
                text.matches('\n').count(),
                "it must end with a line feed",
            ));
        }
        Self::of(revision.to_owned(), samples, packages)
    }

    /// Returns the plan as text, which `zstdcat` prints from a plan's file.
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
                    .expect("writing to a string succeeds");
            }
            text.push('\n');
        }
        text
    }
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

/// Parses a whole number: digits without a sign or leading zeros, so that a plan has only one text.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}
