//! Gathering a package set from what Nix writes about its store paths.

use std::collections::{BTreeMap, HashMap};

use nixery_core::{HASH_LEN, PathReferences, ReferenceGraph, StorePath, package_key};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::draw::draw;
use super::sample::{PlanSample, SamplePackage};
use crate::reference_sink::ReferenceSink;

/// Keys of the packages that every image has besides the requested ones.
const IN_EVERY_IMAGE: [&str; 2] = ["iana-etc", "nss-cacert"];

/// Store paths with their sizes and references, from any mixture of sources: a package set to make
/// a plan for.
///
/// ```
/// use nixery_lab::cluster_plan::{DEFAULT_SAMPLES, DEFAULT_SEED, PathCollection, build};
/// use nixery_lab::reference_sink::ReferenceSink;
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
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PathCollection {
    /// By hash; as JSON a list.
    #[serde(
        serialize_with = "serialize_paths",
        deserialize_with = "deserialize_paths"
    )]
    paths: BTreeMap<Box<str>, CollectedPath>,
    /// Base names of the roots of each image.
    #[serde(skip)]
    images: Vec<Vec<Box<str>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct CollectedPath {
    base_name: Box<str>,
    nar_size: u64,
    /// Whether an image may be requested with it.
    package: bool,
    /// Base names, sorted, without its own.
    references: Vec<Box<str>>,
}

fn serialize_paths<S: Serializer>(
    paths: &BTreeMap<Box<str>, CollectedPath>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.values())
}

fn deserialize_paths<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Box<str>, CollectedPath>, D::Error> {
    let paths = Vec::<CollectedPath>::deserialize(deserializer)?.into_iter();
    let by_hash = paths.map(|path| {
        let hash = path.base_name.get(..HASH_LEN).unwrap_or_default();
        (hash.into(), path)
    });
    Ok(by_hash.collect())
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

    /// The roots of the graph are packages. Without roots all its paths are.
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
        let own = path.base_name();
        if let Some(known) = self.paths.get_mut(&own[..HASH_LEN]) {
            known.package |= package;
            return;
        }
        let references = path.references().iter().copied();
        let references = references.filter(|&reference| reference != own);
        let mut references: Vec<Box<str>> = references.map(Into::into).collect();
        references.sort_unstable();
        references.dedup();
        let collected = CollectedPath {
            base_name: own.into(),
            nar_size: path.nar_size().unwrap_or_default(),
            package,
            references,
        };
        self.paths.insert(own[..HASH_LEN].into(), collected);
    }

    /// Adds the graph of an image that a client requested. Its roots are packages, and together a
    /// sample of their own, see [`Self::to_sample`]. The state does not contain the image: add it
    /// again after a restart.
    pub fn add_image(&mut self, graph: &ReferenceGraph) {
        self.add_graph(graph);
        let roots = graph.roots().iter().map(|&root| &graph.node(root).path);
        let roots: Vec<Box<str>> = roots.map(|path| path.base_name().into()).collect();
        if !roots.is_empty() {
            self.images.push(roots);
        }
    }

    /// Number of images that were added.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// Number of paths that are packages: an image may be requested with them.
    pub fn packages(&self) -> usize {
        self.paths.values().filter(|path| path.package).count()
    }

    /// Number of references to paths that no source has described; a plan is made without them.
    pub fn dangling(&self) -> usize {
        let is_known = |reference: &str| {
            let hash = reference.get(..HASH_LEN);
            hash.is_some_and(|hash| self.paths.contains_key(hash))
        };
        let references = self.paths.values().flat_map(|path| &path.references);
        references.filter(|reference| !is_known(reference)).count()
    }

    /// Returns samples of what images contain: first the images that were added, in their order, up
    /// to the number `samples`. The rest are single packages drawn evenly, each with all paths that
    /// it needs at run time, and with the paths in every image (`nss-cacert` and `iana-etc`, if
    /// they are in the collection).
    ///
    /// Packages are the roots of reference graphs, and all paths of other sources. If there are no
    /// more of them than samples remaining, each is drawn once. Otherwise only `seed` determines
    /// the result: `SplitMix64`'s output times the number of packages, divided by 2⁶⁴, is the
    /// package's place among them, sorted by key and then by base name.
    pub fn to_sample(&self, samples: u16, seed: u64) -> PlanSample {
        let paths = self.paths.values().map(|path| {
            let name = path.base_name.get(HASH_LEN + 1..).unwrap_or_default();
            (package_key(name).into_owned(), path)
        });
        let mut paths: Vec<(String, &CollectedPath)> = paths.collect();
        paths.sort_unstable();
        let numbered = || (0u32..).zip(&paths);
        let numbers: HashMap<&str, u32> = numbered()
            .map(|(number, (_, path))| (&*path.base_name, number))
            .collect();
        let known = |names: &[Box<str>]| -> Vec<u32> {
            let numbers = names.iter().map(|name| numbers.get(&**name).copied());
            numbers.flatten().collect()
        };
        let always = IN_EVERY_IMAGE.iter().filter_map(|&key| {
            let at = paths.partition_point(|(other, _)| &**other < key);
            (paths.get(at)?.0 == key).then_some(at as u32)
        });
        let always: Vec<u32> = always.collect();
        let candidates = numbered().filter(|(_, (_, path))| path.package);
        let candidates: Vec<u32> = candidates.map(|(number, _)| number).collect();
        let images = self.images.iter().take(usize::from(samples));
        let mut drawn: Vec<Vec<u32>> = images.map(|roots| known(roots)).collect();
        for roots in &mut drawn {
            roots.sort_unstable();
        }
        // Not more than `samples`.
        let remaining = samples - drawn.len() as u16;
        drawn.extend(draw(&candidates, &always, remaining, seed));
        let packages = paths.iter().map(|(key, path)| SamplePackage {
            name: key.clone(),
            nar_size: path.nar_size,
            references: known(&path.references),
        });
        PlanSample {
            packages: packages.collect(),
            samples: drawn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference_sink::ReferenceError;

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
        // Another source may make it a package.
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
        // In order of names: a, b, glibc, nss-cacert. Of the graph without roots all paths are
        // packages.
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
    fn invalid_names_in_a_state_are_ignored() {
        let state =
            r#"{"paths":[{"base_name":"é","nar_size":1,"package":true,"references":["x","é"]}]}"#;
        let paths = PathCollection::from_state(state.as_bytes()).unwrap();
        assert_eq!(paths.to_sample(5, 0).packages.len(), 1);
        assert_eq!(paths.dangling(), 2);
    }
}
