//! From recorded pulls to a history that can be replayed.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use crate::replay::WorkloadParts;
use futures::StreamExt;
use nixery_manifest::Digest;
use nixery_state::graphs::{self, GraphsError, RecordedGraph};
use nixery_storage::Storage;

use super::Pull;

/// Seconds of a week; the first one begins with the first pull.
pub const WEEK: u64 = 7 * 24 * 60 * 60;
/// Graphs read at once.
const AT_ONCE: usize = 8;

/// A history of pulls, and what is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedWorkload {
    /// The history.
    pub parts: WorkloadParts,
    /// Pulls of images whose reference graph the store does not have, or one that cannot be read.
    pub without_graph: usize,
    /// How many images those are.
    pub images_without_graph: usize,
}

/// Makes a history of pulls, which must be in the order of time, with the reference graphs that the store
/// has of their images; `progress` is told how many graphs of how many were read.
///
/// Weeks are of seven days from the first pull on. Clients delete nothing: of each name a client keeps the
/// image it pulled last. Equal pulls and graphs give equal parts.
///
/// # Errors
/// The store failed.
pub async fn recorded_workload(
    storage: &dyn Storage,
    pulls: &[Pull],
    mut progress: impl FnMut(usize, usize),
) -> Result<RecordedWorkload, GraphsError> {
    let mut seen = HashSet::new();
    let images: Vec<Digest> = pulls
        .iter()
        .map(|pull| pull.image)
        .filter(|image| seen.insert(*image))
        .collect();
    let total = images.len();
    let mut history = History::default();
    // In the order of the first pull: what several graphs say of one path is taken from the first.
    let mut graphs = futures::stream::iter(images)
        .map(|image| async move { (image, graphs::read(storage, image).await) })
        .buffered(AT_ONCE);
    let mut done = 0;
    while let Some((image, graph)) = graphs.next().await {
        match graph {
            Ok(Some(graph)) => history.add(image, &graph),
            Ok(None) | Err(GraphsError::File { .. }) => {}
            Err(error) => return Err(error),
        }
        done += 1;
        progress(done, total);
    }
    Ok(history.of(pulls))
}

/// The images of a history.
#[derive(Default)]
pub(super) struct History {
    paths: Vec<(String, u64, u64, Vec<u64>)>,
    /// Where each path is in the list.
    places: HashMap<String, u64>,
    /// The roots of each image.
    roots: HashMap<Digest, Vec<u64>>,
}

impl History {
    /// Adds the graph of an image.
    pub(super) fn add(&mut self, image: Digest, recorded: &RecordedGraph) {
        let graph = &recorded.graph;
        let known = self.paths.len();
        let mut places = Vec::with_capacity(graph.len());
        for (node, &compressed) in graph.nodes().iter().zip(&recorded.compressed_sizes) {
            let path = node.path.as_str();
            let place = match self.places.get(path) {
                Some(&place) => place,
                None => {
                    let place = self.paths.len() as u64;
                    self.places.insert(path.to_owned(), place);
                    let path = (path.to_owned(), node.nar_size, compressed, Vec::new());
                    self.paths.push(path);
                    place
                }
            };
            places.push(place);
        }
        for (id, &place) in graph.ids().zip(&places) {
            if place as usize >= known {
                let references = graph.references(id).iter();
                let references = references.map(|reference| places[reference.index()]);
                self.paths[place as usize].3 = references.collect();
            }
        }
        let roots = graph.roots().iter().map(|root| places[root.index()]);
        self.roots.insert(image, roots.collect());
    }

    pub(super) fn of(self, pulls: &[Pull]) -> RecordedWorkload {
        let mut recorded = RecordedWorkload::default();
        let (mut clients, mut names) = (Numbers::default(), Numbers::default());
        let mut images = Numbers::default();
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
            let place = images.of((pull.image, pull.name));
            if place == parts.names.len() as u64 {
                parts.names.push(names.of(pull.name));
            }
            let rows = week as usize + 1;
            if parts.weeks.len() < rows {
                parts.weeks.resize(rows, Vec::new());
            }
            // Lists only what is pulled in that week.
            let row = &mut parts.weeks[week as usize];
            if row.len() <= place as usize {
                row.resize(place as usize + 1, Vec::new());
            }
            if row[place as usize].is_empty() {
                row[place as usize].clone_from(roots);
            }
            let client = clients.of(pull.client);
            parts.events.push((week, client, vec![place], None));
        }
        recorded.images_without_graph = missing.len();
        recorded.parts.paths = self.paths;
        recorded
    }
}

/// Numbers in the order in which they are asked for.
struct Numbers<T>(HashMap<T, u64>);

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Numbers<T> {
    fn of(&mut self, of: T) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(of).or_insert(next)
    }
}
