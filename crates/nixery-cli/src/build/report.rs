//! What was built, for people and for machines.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use nixery_builder::{Image, ImageRequest};
use nixery_core::StorePath;
use nixery_manifest::Digest;
use nixery_state::record::LayerSummary;
use serde::Serialize;

use super::destination::Destination;
use crate::progress::{bytes, seconds};

/// The result as `--json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report<'a> {
    /// As asked for.
    name: &'a str,
    canonical_name: &'a str,
    tag: &'a str,
    architecture: &'a str,
    packages: &'a [String],
    /// Of the OCI manifest.
    digest: Digest,
    /// Of the Docker manifest; null with zstd layers.
    docker_digest: Option<Digest>,
    config_digest: Digest,
    /// Bytes of all layers, compressed.
    size: u64,
    layers: Vec<Layer<'a>>,
    from_cache: bool,
    /// Milliseconds by phase.
    phases: BTreeMap<&'static str, u64>,
    elapsed_milliseconds: u64,
    output: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Layer<'a> {
    digest: Digest,
    diff_id: Digest,
    /// Compressed bytes.
    size: u64,
    tar_size: u64,
    /// Was in the blob store before.
    cached: bool,
    reason: &'a str,
    /// Empty for the root layer.
    paths: &'a [StorePath],
}

pub(super) fn json<'a>(
    image: &'a Image,
    request: &'a ImageRequest,
    destination: &Destination,
    took: Duration,
) -> Report<'a> {
    let milliseconds = |duration: Duration| duration.as_millis().try_into().unwrap_or(u64::MAX);
    let layer = |layer: &'a LayerSummary| Layer {
        digest: layer.digest,
        diff_id: layer.diff_id,
        size: layer.size,
        tar_size: layer.tar_size,
        cached: layer.cached,
        reason: &layer.reason,
        paths: &layer.paths,
    };
    Report {
        name: request.name.as_str(),
        canonical_name: &image.name,
        tag: request.tag.as_str(),
        architecture: image.architecture.oci_name(),
        packages: &image.packages,
        digest: image.oci.digest,
        docker_digest: image.docker.as_ref().map(|manifest| manifest.digest),
        config_digest: image.config.digest,
        size: image.size(),
        layers: image.layers.iter().map(layer).collect(),
        from_cache: image.stats.from_cache,
        phases: image
            .stats
            .phases
            .iter()
            .map(|(phase, duration)| (phase.as_str(), milliseconds(*duration)))
            .collect(),
        elapsed_milliseconds: milliseconds(took),
        output: destination.to_string(),
    }
}

/// Paths that a line of the table names.
const NAMED: usize = 3;

pub(super) fn text(
    image: &Image,
    request: &ImageRequest,
    destination: &Destination,
    took: Duration,
) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "layer   size        digest        contents");
    for (index, layer) in image.layers.iter().enumerate() {
        let hex = layer.digest.hex();
        let _ = writeln!(
            text,
            "{:>5}   {:<10}  {}  {}{}",
            index + 1,
            bytes(layer.size),
            &hex[..12],
            contents(layer),
            if layer.cached { " (cached)" } else { "" },
        );
    }
    let _ = writeln!(text);
    let _ = writeln!(
        text,
        "image   {}:{} ({}, {} layers, {})",
        request.name.as_str(),
        request.tag,
        image.architecture.oci_name(),
        image.layers.len(),
        bytes(image.size()),
    );
    let _ = writeln!(text, "digest  {}", image.oci.digest);
    let _ = writeln!(text, "time    {}", times(image, took));
    let _ = writeln!(text, "output  {destination}");
    let _ = writeln!(text, "next    {}", destination.hint(request));
    text
}

fn contents(layer: &LayerSummary) -> String {
    if layer.paths.is_empty() {
        return "links to the packages".to_owned();
    }
    let names: Vec<_> = layer
        .paths
        .iter()
        .take(NAMED)
        .map(StorePath::name)
        .collect();
    let more = layer.paths.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", names.join(", "))
}

fn times(image: &Image, took: Duration) -> String {
    let total = seconds(took);
    if image.stats.from_cache {
        return format!("{total}, nothing had to be built");
    }
    format!("{total}: {}", image.stats.times())
}
