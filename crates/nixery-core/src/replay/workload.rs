//! Histories of pulls, as JSON.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::json;

use crate::graph::{GraphError, ReferenceGraph};
use crate::store_path::{StorePath, StorePathError};

/// A history of pulls, checked.
///
/// As JSON it is an object with three fields; others are ignored:
///
/// | field | content |
/// |---|---|
/// | `paths` | a list of `[store path, NAR size, compressed size, [references]]`, sizes in bytes, references as places in this list, from 0 |
/// | `weeks` | for each week a list of images, each a list of root paths (places in `paths`); an image has the same place every week |
/// | `events` | a list of `[week, client, [images pulled, in order], [images kept afterwards]]`, in the order of time; weeks and images as places, from 0, clients as any numbers |
///
/// Self references and cycles are accepted. An image that is not kept is forgotten, and a kept one that is
/// not pulled again stays as it was.
#[derive(Debug, Clone)]
pub struct Workload {
    /// All paths of all weeks.
    pub(super) graph: ReferenceGraph,
    /// Compressed bytes of each path of the graph.
    pub(super) compressed: Vec<u64>,
    /// Distinct lists of roots, as indices of the graph: sorted, each once.
    pub(super) images: Vec<Vec<usize>>,
    /// For each week and image, which of `images` it is.
    pub(super) weeks: Vec<Vec<usize>>,
    pub(super) events: Vec<Event>,
}

#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) week: usize,
    pub(super) client: u64,
    pub(super) pulls: Vec<usize>,
    pub(super) keeps: HashSet<usize>,
}

/// Why a workload was refused. Places in lists count from 0.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// It is not JSON of the shape that [`Workload`] describes.
    #[error(
        "a workload must be a JSON object with the lists `paths`, `weeks` and `events`; see the documentation of nixery_core::replay::Workload"
    )]
    Malformed(#[source] serde_json::Error),
    /// A path is not a store path.
    #[error("`paths` has no store path at place {place}")]
    Path {
        /// Where.
        place: usize,
        /// Why.
        #[source]
        source: StorePathError,
    },
    /// A path is listed twice.
    #[error("`paths` has {path} twice, the second time at place {place}")]
    PathTwice {
        /// The path.
        path: String,
        /// Of the second.
        place: usize,
    },
    /// A number is the place of nothing.
    #[error("{place} names {what} {number}, but there are only {count}, counted from 0")]
    OutOfRange {
        /// Where the number is.
        place: String,
        /// What it should be the place of.
        what: &'static str,
        /// The number.
        number: u64,
        /// How many there are.
        count: usize,
    },
    /// The paths are no graph.
    #[error("the paths of the workload are no reference graph")]
    Graph(#[from] GraphError),
}

#[derive(Deserialize)]
struct Raw {
    paths: Vec<(String, u64, u64, Vec<u64>)>,
    weeks: Vec<Vec<Vec<u64>>>,
    events: Vec<(u64, u64, Vec<u64>, Vec<u64>)>,
}

impl Workload {
    /// Reads a workload.
    ///
    /// # Errors
    /// It is of another shape, a number points to nothing, or the paths are no graph.
    pub fn from_json(json: &[u8]) -> Result<Self, WorkloadError> {
        let raw: Raw = serde_json::from_slice(json).map_err(WorkloadError::Malformed)?;
        let (graph, places) = graph(&raw)?;
        let mut compressed = vec![0; graph.len()];
        for (&place, path) in places.iter().zip(&raw.paths) {
            compressed[place] = path.2;
        }
        let mut images = Vec::new();
        let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
        let mut weeks = Vec::with_capacity(raw.weeks.len());
        for (week, lists) in raw.weeks.iter().enumerate() {
            let mut row = Vec::with_capacity(lists.len());
            for (image, roots) in lists.iter().enumerate() {
                let at = || format!("image {image} of week {week}");
                let mut roots = roots
                    .iter()
                    .map(|&root| Ok(places[in_range(root, places.len(), "path", at)?]))
                    .collect::<Result<Vec<usize>, WorkloadError>>()?;
                roots.sort_unstable();
                roots.dedup();
                let next = images.len();
                let id = *known.entry(roots).or_insert_with_key(|roots| {
                    images.push(roots.clone());
                    next
                });
                row.push(id);
            }
            weeks.push(row);
        }
        let events = raw
            .events
            .into_iter()
            .enumerate()
            .map(|(number, event)| Event::new(number, event, &weeks))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            graph,
            compressed,
            images,
            weeks,
            events,
        })
    }

    /// Number of store paths.
    pub fn paths(&self) -> usize {
        self.graph.len()
    }

    /// Number of weeks.
    pub fn weeks(&self) -> usize {
        self.weeks.len()
    }

    /// Number of clients that pull.
    pub fn clients(&self) -> usize {
        let clients: HashSet<u64> = self.events.iter().map(|event| event.client).collect();
        clients.len()
    }

    /// Number of pulls of an image by a client.
    pub fn pulls(&self) -> usize {
        self.events.iter().map(|event| event.pulls.len()).sum()
    }

    /// The distinct images that are pulled at all, sorted.
    pub(super) fn pulled(&self) -> Vec<usize> {
        let mut pulled: Vec<usize> = self
            .events
            .iter()
            .flat_map(|event| {
                event
                    .pulls
                    .iter()
                    .map(|&image| self.weeks[event.week][image])
            })
            .collect();
        pulled.sort_unstable();
        pulled.dedup();
        pulled
    }
}

impl Event {
    fn new(
        number: usize,
        (week, client, pulls, keeps): (u64, u64, Vec<u64>, Vec<u64>),
        weeks: &[Vec<usize>],
    ) -> Result<Self, WorkloadError> {
        let at = || format!("event {number}");
        let week = in_range(week, weeks.len(), "week", at)?;
        let images = weeks[week].len();
        let image = |&image: &u64| in_range(image, images, "image", at);
        Ok(Self {
            week,
            client,
            pulls: pulls.iter().map(image).collect::<Result<_, _>>()?,
            keeps: keeps.iter().map(image).collect::<Result<_, _>>()?,
        })
    }
}

/// The paths as a graph, and where each of the list is in it.
fn graph(raw: &Raw) -> Result<(ReferenceGraph, Vec<usize>), WorkloadError> {
    let mut seen = HashSet::with_capacity(raw.paths.len());
    let mut paths = Vec::with_capacity(raw.paths.len());
    for (place, (path, ..)) in raw.paths.iter().enumerate() {
        let parsed =
            StorePath::parse(path).map_err(|source| WorkloadError::Path { place, source })?;
        if !seen.insert(path) {
            let path = path.clone();
            return Err(WorkloadError::PathTwice { path, place });
        }
        paths.push(parsed);
    }
    let mut infos = Vec::with_capacity(raw.paths.len());
    for (path, nar_size, _, references) in &raw.paths {
        let references = references
            .iter()
            .map(|&reference| {
                let place = in_range(reference, paths.len(), "path", || path.clone())?;
                Ok(&raw.paths[place].0)
            })
            .collect::<Result<Vec<_>, WorkloadError>>()?;
        infos.push(json!({ "path": path, "narSize": nar_size, "references": references }));
    }
    let infos = serde_json::to_vec(&infos).expect("texts and integers serialise to JSON");
    let graph = ReferenceGraph::from_path_info(&infos, &[])?;
    let places = paths
        .iter()
        .map(|path| graph.index_of(path).expect("it was given to the graph"))
        .collect();
    Ok((graph, places))
}

fn in_range(
    number: u64,
    count: usize,
    what: &'static str,
    place: impl Fn() -> String,
) -> Result<usize, WorkloadError> {
    match usize::try_from(number) {
        Ok(index) if index < count => Ok(index),
        _ => Err(WorkloadError::OutOfRange {
            place: place(),
            what,
            number,
            count,
        }),
    }
}
