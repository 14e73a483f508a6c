//! Turns recorded pulls into a history that can be replayed.

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use nixery_core::NodeId;
use nixery_manifest::Digest;
use nixery_state::graphs::{GraphsError, RecordedGraph};
use nixery_storage::Storage;

use super::Pull;
use crate::gather::read_graphs;
use crate::numbers::number;
use crate::replay::WorkloadParts;

/// Seconds of a week; the first week begins with the first pull.
pub const WEEK: u64 = 7 * 24 * 60 * 60;

/// A history of pulls, and what it lacks.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedWorkload {
    /// The history.
    pub parts: WorkloadParts,
    /// Number of pulls of images whose reference graph is missing from the store or unreadable.
    pub without_graph: usize,
    /// Number of those images.
    pub images_without_graph: usize,
}

/// Makes a history of pulls, which must be in the order of time, with the reference graphs that the
/// store has of their images. `progress` is called with the number of graphs that were read and of
/// all graphs.
///
/// Weeks have seven days and start with the first pull. Clients delete nothing: of each name a
/// client keeps the image that it pulled last. Equal pulls and graphs give equal parts.
///
/// # Errors
/// The store failed.
pub async fn recorded_workload(
    storage: &dyn Storage,
    pulls: &[Pull],
    mut progress: impl FnMut(usize, usize),
) -> Result<RecordedWorkload, GraphsError> {
    let mut seen = HashSet::new();
    let images = pulls.iter().map(|pull| pull.image);
    let images: Vec<Digest> = images.filter(|&image| seen.insert(image)).collect();
    let total = images.len();
    let mut history = History::default();
    // In the order of the first pull: the first graph with a path determines the path's sizes.
    let graphs = read_graphs(storage, images.iter().copied());
    let mut graphs = Box::pin(graphs.enumerate());
    while let Some((index, graph)) = graphs.next().await {
        match graph {
            Ok(Some(graph)) => history.add(images[index], &graph),
            Ok(None) | Err(GraphsError::File { .. }) => {}
            Err(error) => return Err(error),
        }
        progress(index + 1, total);
    }
    Ok(history.into_workload(pulls))
}

/// The images of a history.
#[derive(Default)]
pub(super) struct History {
    paths: Vec<(String, u64, u64, Vec<u64>)>,
    /// The place of each path in the list.
    places: HashMap<String, u64>,
    /// The roots of each image.
    roots: HashMap<Digest, Vec<u64>>,
}

impl History {
    /// Adds the graph of an image.
    pub(super) fn add(&mut self, image: Digest, recorded: &RecordedGraph) {
        let graph = &recorded.graph;
        let known = self.paths.len() as u64;
        let mut places = Vec::with_capacity(graph.len());
        for (node, &compressed) in graph.nodes().iter().zip(&recorded.compressed_sizes) {
            let path = node.path.as_str().to_owned();
            let place = number(&mut self.places, path.clone());
            if place == self.paths.len() as u64 {
                self.paths
                    .push((path, node.nar_size, compressed, Vec::new()));
            }
            places.push(place);
        }
        let numbered = |ids: &[NodeId]| ids.iter().map(|id| places[id.index()]).collect();
        for (id, &place) in graph.ids().zip(&places) {
            if place >= known {
                self.paths[place as usize].3 = numbered(graph.references(id));
            }
        }
        self.roots.insert(image, numbered(graph.roots()));
    }

    pub(super) fn into_workload(self, pulls: &[Pull]) -> RecordedWorkload {
        let mut recorded = RecordedWorkload::default();
        let (mut clients, mut names, mut images) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut missing = HashSet::new();
        let mut begin = None;
        let parts = &mut recorded.parts;
        for pull in pulls {
            let Some(roots) = self.roots.get(&pull.image) else {
                recorded.without_graph += 1;
                missing.insert(pull.image);
                continue;
            };
            let week = pull.time.saturating_sub(*begin.get_or_insert(pull.time)) / WEEK;
            let image = number(&mut images, (pull.image, pull.name));
            if image == parts.names.len() as u64 {
                parts.names.push(number(&mut names, pull.name));
            }
            let weeks = parts.weeks.len().max(week as usize + 1);
            parts.weeks.resize(weeks, Vec::new());
            // A week lists only the images that are pulled in it.
            let row = &mut parts.weeks[week as usize];
            row.resize(row.len().max(image as usize + 1), Vec::new());
            row[image as usize].clone_from(roots);
            let client = number(&mut clients, pull.client);
            parts.events.push((week, client, vec![image], None));
        }
        recorded.images_without_graph = missing.len();
        recorded.parts.paths = self.paths;
        recorded
    }
}
