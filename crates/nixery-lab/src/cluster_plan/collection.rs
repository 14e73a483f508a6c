//! Gathering a package set from what Nix writes about its store paths.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::draw::draw;
use super::sample::{PlanSample, SamplePackage};
use crate::reference_sink::{ReferenceError, ReferenceSink};
use nixery_core::{HASH_LEN, PathReferences, ReferenceGraph, StorePath, package_key};

/// Keys of what every image has besides what was asked for.
const IN_EVERY_IMAGE: [&str; 2] = ["iana-etc", "nss-cacert"];

/// Store paths with their sizes and references, from any mixture of sources: a package set to make a plan of.
///
/// ```
/// use crate::reference_sink::ReferenceSink;
/// use crate::cluster_plan::{DEFAULT_SAMPLES, DEFAULT_SEED, PathCollection, build};
/// let mut paths = PathCollection::default();
/// for narinfo in [
///     "StorePath: /nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12\nNarSize: 226560\n\
///      References: 00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.42",
///     "StorePath: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.42\nNarSize: 31000000\n\
///      References: ",
/// ] {
///     paths.add_narinfo(narinfo).unwrap();
/// }
/// let sample = paths.to_sample(DEFAULT_SAMPLES, DEFAULT_SEED);
/// let plan = build(&sample, "example".into(), &mut |_| ()).unwrap();
/// assert_eq!(plan.get("glibc").unwrap().1, plan.samples());
/// ```
#[derive(Debug, Clone, Default)]
pub struct PathCollection {
    /// By hash.
    paths: HashMap<Box<str>, Collected>,
    /// Hash and name of the roots of each image; in no state.
    images: Vec<Vec<Box<str>>>,
}

/// A store path as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Collected {
    base_name: Box<str>,
    nar_size: u64,
    /// Whether an image may be asked for with it.
    package: bool,
    /// Hash and name of each, as far as they are others.
    references: Vec<Box<str>>,
}

/// What [`PathCollection::to_state`] writes.
#[derive(Serialize, Deserialize)]
struct State {
    /// Sorted by base name.
    paths: Vec<Collected>,
}

impl ReferenceSink for PathCollection {
    const NEEDS_SIZE: bool = true;

    fn add_references(&mut self, path: &PathReferences<'_>) {
        self.add(path, true);
    }

    fn contains(&self, path: &StorePath) -> bool {
        self.paths.contains_key(path.hash_part())
    }

    fn paths(&self) -> usize {
        self.paths.len()
    }

    fn to_state(&self) -> Vec<u8> {
        let mut paths: Vec<Collected> = self.paths.values().cloned().collect();
        paths.sort_unstable();
        serde_json::to_vec(&State { paths }).expect("texts and integers serialise to JSON")
    }

    fn from_state(state: &[u8]) -> Result<Self, ReferenceError> {
        let state: State = serde_json::from_slice(state).map_err(ReferenceError::State)?;
        let mut collection = Self::default();
        for path in state.paths {
            let hash = path.base_name.get(..HASH_LEN).unwrap_or_default().into();
            collection.paths.insert(hash, path);
        }
        Ok(collection)
    }

    /// Images are asked for with the roots of the graph, where it has some, not with everything in it.
    fn add_graph(&mut self, graph: &ReferenceGraph) {
        let roots = graph.roots();
        for (id, path) in graph.ids().zip(PathReferences::of_graph(graph)) {
            let package = roots.is_empty() || roots.binary_search(&id).is_ok();
            self.add(&path, package);
        }
    }
}

impl PathCollection {
    fn add(&mut self, path: &PathReferences<'_>, package: bool) {
        let (own, references) = (path.base_name(), path.references());
        if let Some(known) = self.paths.get_mut(&own[..HASH_LEN]) {
            known.package |= package;
            return;
        }
        let mut references: Vec<Box<str>> = references
            .iter()
            .filter(|&&reference| reference != own)
            .map(|&reference| reference.into())
            .collect();
        references.sort_unstable();
        references.dedup();
        let collected = Collected {
            base_name: own.into(),
            nar_size: path.nar_size().unwrap_or_default(),
            package,
            references,
        };
        self.paths.insert(own[..HASH_LEN].into(), collected);
    }

    /// Takes the graph of an image that somebody asked for: its roots are packages, and together a sample of
    /// their own, see [`Self::to_sample`]. No state has it: it is added anew when the gathering goes on.
    pub fn add_image(&mut self, graph: &ReferenceGraph) {
        self.add_graph(graph);
        let roots = graph.roots().iter();
        let roots: Vec<Box<str>> = roots
            .map(|&root| graph.node(root).path.base_name().into())
            .collect();
        if !roots.is_empty() {
            self.images.push(roots);
        }
    }

    /// How many images were added.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// How many of the paths are packages that an image may be asked for with.
    pub fn packages(&self) -> usize {
        self.paths.values().filter(|path| path.package).count()
    }

    /// References to paths that no source has described; a plan is made as if they were not there.
    pub fn dangling(&self) -> usize {
        let known = |reference: &str| {
            let hash = reference.get(..HASH_LEN);
            hash.is_some_and(|hash| self.paths.contains_key(hash))
        };
        let all = self.paths.values().flat_map(|path| &path.references);
        all.filter(|reference| !known(reference)).count()
    }

    /// Samples of what images hold: first the images that were added, in their order, as far as `samples` goes.
    /// What is left of `samples` are single packages drawn evenly, each with all that it needs at run time, and
    /// what every image has (`nss-cacert` and `iana-etc`, as far as they are there).
    ///
    /// Packages are the roots of reference graphs, and all paths of other sources. Where there are no more
    /// of them than samples left, each is drawn once. Otherwise `seed` alone decides what is drawn: with
    /// `SplitMix64`, whose output times the number of packages, divided by 2⁶⁴, is the package's place among
    /// them, sorted by key and then by hash and name.
    pub fn to_sample(&self, samples: u16, seed: u64) -> PlanSample {
        let mut paths: Vec<(String, &Collected)> = self
            .paths
            .values()
            .map(|path| {
                let name = path.base_name.get(HASH_LEN + 1..).unwrap_or_default();
                (package_key(name).into_owned(), path)
            })
            .collect();
        paths.sort_unstable();
        let index: HashMap<&str, u32> = (0..)
            .zip(&paths)
            .map(|(index, (_, path))| (&*path.base_name, index))
            .collect();
        let always: Vec<u32> = IN_EVERY_IMAGE
            .iter()
            .filter_map(|&key| {
                let at = paths.partition_point(|(other, _)| &**other < key);
                (paths.get(at)?.0 == key).then_some(at as u32)
            })
            .collect();
        let candidates: Vec<u32> = (0..)
            .zip(&paths)
            .filter(|(_, (_, path))| path.package)
            .map(|(index, _)| index)
            .collect();
        let packages = paths.iter().map(|(key, path)| SamplePackage {
            name: key.clone(),
            nar_size: path.nar_size,
            references: path
                .references
                .iter()
                .filter_map(|reference| index.get(&**reference).copied())
                .collect(),
        });
        let of_image = |roots: &Vec<Box<str>>| {
            let roots = roots.iter().filter_map(|root| index.get(&**root).copied());
            let mut roots: Vec<u32> = roots.collect();
            roots.sort_unstable();
            roots
        };
        let images = self.images.iter().take(usize::from(samples));
        let mut drawn: Vec<Vec<u32>> = images.map(of_image).collect();
        // No more than `samples`.
        let left = samples - drawn.len() as u16;
        drawn.extend(draw(&candidates, &always, left, seed));
        PlanSample {
            packages: packages.collect(),
            samples: drawn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(letter: char, name: &str) -> String {
        format!("{}-{name}", letter.to_string().repeat(HASH_LEN))
    }

    fn narinfo(own: &str, size: u64, references: &[String]) -> String {
        let references = references.join(" ");
        format!("StorePath: /nix/store/{own}\nNarSize: {size}\nReferences: {references}\n")
    }

    fn collected() -> PathCollection {
        let (a, c) = (base('a', "a-1"), base('c', "glibc-2.42"));
        let ca = base('d', "nss-cacert-3.1");
        let gone = base('g', "gone-1");
        let mut paths = PathCollection::default();
        for text in [
            narinfo(&a, 5, &[a.clone(), c.clone(), gone]),
            narinfo(&base('b', "a-2-bin"), 6, std::slice::from_ref(&a)),
            narinfo(&c, 7, &[]),
            narinfo(&ca, 8, &[]),
        ] {
            paths.add_narinfo(&text).unwrap();
        }
        paths
    }

    #[test]
    fn a_set_becomes_a_sample() {
        let paths = collected();
        assert_eq!(
            (paths.paths(), paths.packages(), paths.dangling()),
            (4, 4, 1)
        );
        let sample = paths.to_sample(10, 0);
        let packages: Vec<_> = sample
            .packages
            .iter()
            .map(|package| (&*package.name, package.nar_size, &*package.references))
            .collect();
        assert_eq!(
            packages,
            [
                ("a", 5, &[2][..]),
                ("a-bin", 6, &[0]),
                ("glibc", 7, &[]),
                ("nss-cacert", 8, &[])
            ]
        );
        assert_eq!(
            sample.samples,
            [vec![0, 3], vec![1, 3], vec![2, 3], vec![3]]
        );
    }

    #[test]
    fn of_a_graph_the_roots_are_packages() {
        let (a, c) = (base('a', "a-1"), base('c', "glibc-2.42"));
        let json = format!(
            r#"{{"exportReferencesGraph":{{"graph":["/nix/store/{a}"]}},"graph":[
                {{"path":"/nix/store/{a}","narSize":1,"references":["/nix/store/{c}"]}},
                {{"path":"/nix/store/{c}","narSize":2,"references":[]}}]}}"#
        );
        let mut paths = PathCollection::default();
        paths.add_graph(&ReferenceGraph::parse(json.as_bytes()).unwrap());
        assert_eq!((paths.paths(), paths.packages()), (2, 1));
        assert_eq!(paths.to_sample(10, 0).samples, [[0]]);
        // Another source may say more of it.
        paths.add_narinfo(&narinfo(&c, 2, &[])).unwrap();
        assert_eq!((paths.paths(), paths.packages()), (2, 2));
    }

    #[test]
    fn images_are_samples_before_packages_are_drawn() {
        let image = |roots: &[&str]| {
            let node = |name: &str, references: &[String]| {
                let references: Vec<_> = references
                    .iter()
                    .map(|r| format!("/nix/store/{r}"))
                    .collect();
                serde_json::json!({
                    "path": format!("/nix/store/{name}"), "narSize": 1, "references": references,
                })
            };
            let libc = base('c', "glibc-2.42");
            let mut nodes = vec![node(&libc, &[])];
            nodes.extend(
                roots
                    .iter()
                    .map(|root| node(root, std::slice::from_ref(&libc))),
            );
            let roots: Vec<_> = roots
                .iter()
                .map(|root| format!("/nix/store/{root}"))
                .collect();
            let json =
                serde_json::json!({ "exportReferencesGraph": { "graph": roots }, "graph": nodes });
            ReferenceGraph::parse(json.to_string().as_bytes()).unwrap()
        };
        let (a, b, ca) = (
            base('a', "a-1"),
            base('b', "b-1"),
            base('d', "nss-cacert-3.1"),
        );
        let mut paths = PathCollection::default();
        paths.add_image(&image(&[&b, &ca]));
        paths.add_image(&image(&[&a, &b, &ca]));
        paths.add_image(&image(&[]));
        assert_eq!((paths.paths(), paths.packages(), paths.images()), (4, 4, 2));
        // In order of names: a, b, glibc, nss-cacert. Of the graph without roots all paths are packages.
        let images = [vec![1, 3], vec![0, 1, 3]];
        let each = [vec![0, 3], vec![1, 3], vec![2, 3], vec![3]];
        let samples = |most| paths.to_sample(most, 0).samples;
        assert_eq!(samples(10), [&images[..], &each[..]].concat());
        assert_eq!(samples(6), samples(10));
        assert_eq!(samples(2), images);
        assert_eq!(samples(1), images[..1]);
        assert_eq!(samples(4)[..2], images);
        assert_eq!(samples(4).len(), 4);
    }

    #[test]
    fn gathering_can_be_resumed() {
        let paths = collected();
        let again = PathCollection::from_state(&paths.to_state()).unwrap();
        assert_eq!(again.to_state(), paths.to_state());
        assert_eq!(again.to_sample(3, 7), paths.to_sample(3, 7));
        for bad in [&b"{}"[..], b"[]", br#"{"seen":[],"counts":{}}"#] {
            assert!(matches!(
                PathCollection::from_state(bad),
                Err(ReferenceError::State(_))
            ));
        }
    }

    #[test]
    fn a_size_is_needed() {
        let mut paths = PathCollection::default();
        let own = base('a', "a-1");
        let text = narinfo(&own, 5, &[]);
        for bad in [text.replace("NarSize: 5\n", ""), text.replace('5', "x")] {
            paths.add_narinfo(&bad).unwrap_err();
        }
        let json = format!(r#"[{{"path":"/nix/store/{own}","references":[]}}]"#);
        let error = paths.add_path_info(json.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(&own), "{error}");
        assert_eq!(paths.paths(), 0);
    }

    /// A state comes from a file, which may hold anything.
    #[test]
    fn strange_states_do_no_harm() {
        let state =
            r#"{"paths":[{"base_name":"é","nar_size":1,"package":true,"references":["x","é"]}]}"#;
        let paths = PathCollection::from_state(state.as_bytes()).unwrap();
        assert_eq!(paths.to_sample(5, 0).packages.len(), 1);
        assert_eq!(paths.dangling(), 2);
    }
}
