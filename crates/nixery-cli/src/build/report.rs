//! The report of a build, for people and for machines.

use std::collections::BTreeMap;
use std::time::Duration;

use nixery_builder::{Image, ImageRequest};
use nixery_core::StorePath;
use nixery_state::record::LayerSummary;
use serde_json::{Value, json};

use super::destination::Destination;
use crate::progress::{bytes, seconds};

/// The result as `--json` prints it. Sizes are bytes; `size` counts compressed bytes.
pub(super) fn json(
    image: &Image,
    request: &ImageRequest,
    destination: &Destination,
    elapsed: Duration,
) -> Value {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let layer = |layer: &LayerSummary| {
        json!({
            "digest": layer.digest,
            "diffId": layer.diff_id,
            "size": layer.size,
            "tarSize": layer.tar_size,
            // Whether the layer was in the blob store before.
            "cached": layer.cached,
            "reason": layer.reason,
            // Empty for the root layer.
            "paths": layer.paths,
        })
    };
    let phases = image.stats.phases.iter();
    let phases: BTreeMap<&str, u64> = phases
        .map(|(phase, duration)| (phase.as_str(), milliseconds(*duration)))
        .collect();
    json!({
        // As requested.
        "name": request.name.as_str(),
        "canonicalName": image.name,
        "tag": request.tag.as_str(),
        "architecture": image.architecture.oci_name(),
        "packages": image.packages,
        // Of the OCI manifest.
        "digest": image.oci.digest,
        // Null with zstd layers.
        "dockerDigest": image.docker.as_ref().map(|manifest| manifest.digest),
        "configDigest": image.config.digest,
        "size": image.size(),
        "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
        "fromCache": image.stats.from_cache,
        // Milliseconds by phase.
        "phases": phases,
        "elapsedMilliseconds": milliseconds(elapsed),
        "output": destination.to_string(),
    })
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
