//! Histories of pulls: their JSON, and the validated form.

use std::collections::{BTreeSet, HashMap, HashSet};

use nixery_core::{GraphError, ListedPath, NodeId, ReferenceGraph, StorePath, StorePathError};
use serde::{Deserialize, Serialize};

use crate::numbers::number;

/// A history of pulls that is not validated. [`Workload::from_parts`] validates it.
///
/// As JSON it is an object with these fields; others are ignored:
///
/// | field | content |
/// |---|---|
/// | `paths` | a list of `[store path, NAR size, compressed size, [references]]`, sizes in bytes, references as places in this list, from 0 |
/// | `weeks` | for each week a list of images, each a list of root paths (places in `paths`); an image has the same place every week |
/// | `events` | a list of `[week, client, [images pulled, in order], [images kept afterwards]]`, in the order of time; weeks and images as places, from 0, clients as any numbers |
/// | `names` | optional: for each place of an image a number, the same for images of one name |
///
/// Self references and cycles are accepted. A client deletes an image that it does not keep; a kept
/// image that is not pulled again does not change. `null` for the images kept means all. Of each
/// name a client has one image, the one that it pulled last; without `names` each place is a name
/// of its own. An image that no client pulls in a week may be an empty list in that week, and be
/// left out at the end of the week's list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadParts {
    /// Store path, NAR size, compressed size, references.
    pub paths: Vec<(String, u64, u64, Vec<u64>)>,
    /// Roots, by week and image.
    pub weeks: Vec<Vec<Vec<u64>>>,
    /// The name of each image's place; empty if each place is a name of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<u64>,
    /// In the order of time.
    pub events: Vec<WorkloadEvent>,
}

/// Week, client, images pulled, images kept.
pub type WorkloadEvent = (u64, u64, Vec<u64>, Option<Vec<u64>>);

impl WorkloadParts {
    /// Returns the JSON in one line; equal parts give equal bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and integers serialise to JSON")
    }
}

/// A valid history of pulls. [`WorkloadParts`] describes its parts and its JSON.
#[derive(Debug, Clone)]
pub struct Workload {
    /// All paths of all weeks.
    pub(super) graph: ReferenceGraph,
    /// Compressed bytes of each path of the graph.
    pub(super) compressed: Vec<u64>,
    /// Distinct lists of roots, as indices of the graph: sorted, each once.
    pub(super) images: Vec<Vec<NodeId>>,
    pub(super) weeks: usize,
    pub(super) events: Vec<Event>,
}

#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) week: usize,
    pub(super) client: u64,
    pub(super) pulls: Vec<Pull>,
    /// Names of the images that the client keeps; `None` for all.
    pub(super) keeps: Option<HashSet<u64>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Pull {
    /// A client has one image of each name.
    pub(super) name: u64,
    /// Index of one of the workload's images.
    pub(super) image: usize,
}

/// Why a workload was refused. Places in lists count from 0.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// It is not JSON of the shape that [`WorkloadParts`] describes.
    #[error(
        "a workload must be a JSON object with the lists `paths`, `weeks` and `events`. Fix: follow the format in `nixery lab replay --help`"
    )]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A path is not a store path.
    #[error("`paths` has no store path at position {place}")]
    Path {
        /// The place.
        place: usize,
        /// The reason.
        #[source]
        source: StorePathError,
    },
    /// A path is listed twice.
    #[error("`paths` has {path} twice, the second time at position {place}")]
    PathTwice {
        /// The path.
        path: String,
        /// Place of the second one.
        place: usize,
    },
    /// A number is not a place in its list.
    #[error("{place} names {what} {number}, but there are only {count}, counted from 0")]
    OutOfRange {
        /// Where the number is.
        place: String,
        /// The kind of item that it should refer to.
        what: &'static str,
        /// The number.
        number: u64,
        /// Number of items.
        count: usize,
    },
    /// The paths are not a graph.
    #[error("the paths of the workload are not a reference graph")]
    Graph(#[from] GraphError),
}

impl Workload {
    /// Reads a workload.
    ///
    /// # Errors
    /// The JSON has another shape, a number is out of range, or the paths are not a graph.
    pub fn from_json(json: &[u8]) -> Result<Self, WorkloadError> {
        let parts =
            serde_json::from_slice(json).map_err(|error| WorkloadError::Malformed(error.into()))?;
        Self::from_parts(&parts)
    }

    /// Validates a workload.
    ///
    /// # Errors
    /// A number is out of range, or the paths are not a graph.
    pub fn from_parts(parts: &WorkloadParts) -> Result<Self, WorkloadError> {
        let (graph, places) = graph(parts)?;
        let mut compressed = vec![0; graph.len()];
        for (&place, path) in places.iter().zip(&parts.paths) {
            compressed[place.index()] = path.2;
        }
        let mut images = Vec::new();
        let mut known = HashMap::new();
        let mut weeks = Vec::with_capacity(parts.weeks.len());
        for (week, lists) in parts.weeks.iter().enumerate() {
            let mut row = Vec::with_capacity(lists.len());
            for (image, roots) in lists.iter().enumerate() {
                let at = || format!("image {image} of week {week}");
                let roots = roots
                    .iter()
                    .map(|&root| Ok(places[in_range(root, places.len(), "path", at)?]));
                let mut roots = roots.collect::<Result<Vec<NodeId>, WorkloadError>>()?;
                roots.sort_unstable();
                roots.dedup();
                let image = number(&mut known, roots.clone()) as usize;
                if image == images.len() {
                    images.push(roots);
                }
                row.push(image);
            }
            weeks.push(row);
        }
        let events = parts.events.iter().enumerate();
        let events = events.map(|(number, event)| Event::new(number, event, &weeks, &parts.names));
        Ok(Self {
            graph,
            compressed,
            images,
            weeks: weeks.len(),
            events: events.collect::<Result<_, _>>()?,
        })
    }

    /// Number of store paths.
    pub fn paths(&self) -> usize {
        self.graph.len()
    }

    /// Number of weeks.
    pub fn weeks(&self) -> usize {
        self.weeks
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
        let pulls = self.events.iter().flat_map(|event| &event.pulls);
        let pulled: BTreeSet<usize> = pulls.map(|pull| pull.image).collect();
        pulled.into_iter().collect()
    }
}

impl Event {
    fn new(
        number: usize,
        (week, client, pulls, keeps): &WorkloadEvent,
        weeks: &[Vec<usize>],
        names: &[u64],
    ) -> Result<Self, WorkloadError> {
        let at = || format!("event {number}");
        let week = in_range(*week, weeks.len(), "week", at)?;
        let images = &weeks[week];
        let pull = |&place: &u64| {
            let image = images[in_range(place, images.len(), "image", at)?];
            // Without names each place is a name of its own.
            let name = match names {
                [] => place,
                names => names[in_range(place, names.len(), "place of `names`", at)?],
            };
            Ok(Pull { name, image })
        };
        let pulls: Result<_, WorkloadError> = pulls.iter().map(pull).collect();
        let keeps = keeps.as_ref().map(|keeps| {
            let names = keeps.iter().map(|place| Ok(pull(place)?.name));
            names.collect::<Result<_, WorkloadError>>()
        });
        Ok(Self {
            week,
            client: *client,
            pulls: pulls?,
            keeps: keeps.transpose()?,
        })
    }
}

/// Returns the paths as a graph, and the node of each path of the list.
fn graph(parts: &WorkloadParts) -> Result<(ReferenceGraph, Vec<NodeId>), WorkloadError> {
    let mut seen = HashSet::with_capacity(parts.paths.len());
    let mut paths = Vec::with_capacity(parts.paths.len());
    for (place, (path, ..)) in parts.paths.iter().enumerate() {
        let parsed =
            StorePath::parse(path).map_err(|source| WorkloadError::Path { place, source })?;
        if !seen.insert(path) {
            let path = path.clone();
            return Err(WorkloadError::PathTwice { path, place });
        }
        paths.push(parsed);
    }
    let references = parts.paths.iter().map(|(path, .., references)| {
        let places = references.iter().map(|&reference| {
            let place = in_range(reference, paths.len(), "path", || path.clone())?;
            // Far fewer than 2^32 paths fit in memory.
            Ok(place as u32)
        });
        places.collect()
    });
    let references = references.collect::<Result<Vec<Vec<u32>>, WorkloadError>>()?;
    let list = paths.into_iter().zip(&parts.paths).zip(&references);
    let list = list.map(|((path, &(_, nar_size, ..)), references)| ListedPath {
        path,
        nar_size,
        nar_hash: None,
        references,
    });
    let list: Vec<ListedPath<'_>> = list.collect();
    Ok(ReferenceGraph::from_list(&list, &[])?)
}

fn in_range(
    number: u64,
    count: usize,
    what: &'static str,
    place: impl Fn() -> String,
) -> Result<usize, WorkloadError> {
    let index = usize::try_from(number).ok().filter(|&index| index < count);
    index.ok_or_else(|| WorkloadError::OutOfRange {
        place: place(),
        what,
        number,
        count,
    })
}
