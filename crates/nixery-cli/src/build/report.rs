//! The report of a build, for people and for machines.

use std::collections::BTreeMap;
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
    /// As requested.
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
    /// Whether the layer was in the blob store before.
    cached: bool,
    reason: &'a str,
    /// Empty for the root layer.
    paths: &'a [StorePath],
}

impl<'a> From<&'a LayerSummary> for Layer<'a> {
    fn from(layer: &'a LayerSummary) -> Self {
        Self {
            digest: layer.digest,
            diff_id: layer.diff_id,
            size: layer.size,
            tar_size: layer.tar_size,
            cached: layer.cached,
            reason: &layer.reason,
            paths: &layer.paths,
        }
    }
}

pub(super) fn json<'a>(
    image: &'a Image,
    request: &'a ImageRequest,
    destination: &Destination,
    elapsed: Duration,
) -> Report<'a> {
    let milliseconds = |duration: Duration| duration.as_millis().try_into().unwrap_or(u64::MAX);
    let phases = image.stats.phases.iter();
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
        layers: image.layers.iter().map(Layer::from).collect(),
        from_cache: image.stats.from_cache,
        phases: phases
            .map(|(phase, duration)| (phase.as_str(), milliseconds(*duration)))
            .collect(),
        elapsed_milliseconds: milliseconds(elapsed),
        output: destination.to_string(),
    }
}

/// The most paths of a layer that the table names.
const MAX_PATHS: usize = 3;

/// The result as a table of layers, and a summary.
pub(super) fn text(
    image: &Image,
    request: &ImageRequest,
    destination: &Destination,
    elapsed: Duration,
) -> String {
    let mut text = "layer   size        digest        contents\n".to_owned();
    for (index, layer) in image.layers.iter().enumerate() {
        let (size, hex) = (bytes(layer.size), layer.digest.hex());
        let cached = if layer.cached { " (cached)" } else { "" };
        text += &format!(
            "{:>5}   {size:<10}  {}  {}{cached}\n",
            index + 1,
            &hex[..12],
            contents(layer),
        );
    }
    let times = match image.stats.from_cache {
        true => ", nothing had to be built".to_owned(),
        false => format!(": {}", image.stats.times()),
    };
    text + &format!(
        "\nimage   {}:{} ({}, {} layers, {})\ndigest  {}\ntime    {}{times}\noutput  {destination}\nnext    {}\n",
        request.name.as_str(),
        request.tag,
        image.architecture.oci_name(),
        image.layers.len(),
        bytes(image.size()),
        image.oci.digest,
        seconds(elapsed),
        destination.hint(request),
    )
}

fn contents(layer: &LayerSummary) -> String {
    if layer.paths.is_empty() {
        return "links to the packages".to_owned();
    }
    let named = layer.paths.iter().take(MAX_PATHS).map(StorePath::name);
    let names = named.collect::<Vec<_>>().join(", ");
    match layer.paths.len().saturating_sub(MAX_PATHS) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}
