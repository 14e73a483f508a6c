//! Histories of pulls, checked.

use std::collections::{HashMap, HashSet};

use super::parts::{WorkloadEvent, WorkloadParts};

use nixery_core::{GraphError, ListedPath, NodeId, ReferenceGraph, StorePath, StorePathError};

/// A history of pulls, checked. [`WorkloadParts`] says what one is made of, and its JSON.
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
    /// Names; `None` for all.
    pub(super) keeps: Option<HashSet<u64>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Pull {
    /// A client has one image of each.
    pub(super) name: u64,
    /// Which of the workload's images.
    pub(super) image: usize,
}

/// Why a workload was refused. Places in lists count from 0.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// It is not JSON of the shape that [`WorkloadParts`] describes.
    #[error(
        "a workload must be a JSON object with the lists `paths`, `weeks` and `events`; see the documentation of crate::replay::WorkloadParts"
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

impl Workload {
    /// Reads a workload.
    ///
    /// # Errors
    /// It is of another shape, a number points to nothing, or the paths are no graph.
    pub fn from_json(json: &[u8]) -> Result<Self, WorkloadError> {
        let parts = serde_json::from_slice(json).map_err(WorkloadError::Malformed)?;
        Self::from_parts(&parts)
    }

    /// Checks a workload.
    ///
    /// # Errors
    /// A number points to nothing, or the paths are no graph.
    pub fn from_parts(parts: &WorkloadParts) -> Result<Self, WorkloadError> {
        let (graph, places) = graph(parts)?;
        let mut compressed = vec![0; graph.len()];
        for (&place, path) in places.iter().zip(&parts.paths) {
            compressed[place.index()] = path.2;
        }
        let mut images = Vec::new();
        let mut known: HashMap<Vec<NodeId>, usize> = HashMap::new();
        let mut weeks = Vec::with_capacity(parts.weeks.len());
        for (week, lists) in parts.weeks.iter().enumerate() {
            let mut row = Vec::with_capacity(lists.len());
            for (image, roots) in lists.iter().enumerate() {
                let at = || format!("image {image} of week {week}");
                let mut roots = roots
                    .iter()
                    .map(|&root| Ok(places[in_range(root, places.len(), "path", at)?]))
                    .collect::<Result<Vec<NodeId>, WorkloadError>>()?;
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
        let events = parts
            .events
            .iter()
            .enumerate()
            .map(|(number, event)| Event::new(number, event, &weeks, &parts.names))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            graph,
            compressed,
            images,
            weeks: weeks.len(),
            events,
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
        let mut pulled: Vec<usize> = self
            .events
            .iter()
            .flat_map(|event| event.pulls.iter().map(|pull| pull.image))
            .collect();
        pulled.sort_unstable();
        pulled.dedup();
        pulled
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
            // Without names each place is one.
            let name = match names {
                [] => place,
                names => names[in_range(place, names.len(), "place of `names`", at)?],
            };
            Ok(Pull { name, image })
        };
        let keeps = keeps.as_ref().map(|keeps| {
            let names = keeps.iter().map(|place| Ok(pull(place)?.name));
            names.collect::<Result<_, WorkloadError>>()
        });
        Ok(Self {
            week,
            client: *client,
            pulls: pulls
                .iter()
                .map(pull)
                .collect::<Result<_, WorkloadError>>()?,
            keeps: keeps.transpose()?,
        })
    }
}

/// The paths as a graph, and where each of the list is in it.
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
    let mut references = Vec::with_capacity(parts.paths.len());
    for (path, .., own) in &parts.paths {
        let place = |&reference: &u64| {
            let place = in_range(reference, paths.len(), "path", || path.clone())?;
            // Far fewer than 2^32 paths fit in memory.
            Ok(place as u32)
        };
        let own: Result<Vec<u32>, WorkloadError> = own.iter().map(place).collect();
        references.push(own?);
    }
    let list: Vec<ListedPath<'_>> = paths
        .into_iter()
        .zip(&parts.paths)
        .zip(&references)
        .map(|((path, &(_, nar_size, ..)), references)| ListedPath {
            path,
            nar_size,
            nar_hash: None,
            references,
        })
        .collect();
    Ok(ReferenceGraph::from_list(&list, &[])?)
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
