//! Graphs whose references are places in a list already.

use super::check::add;
use super::closure::closure_sums;
use super::{GraphError, NodeId, PathInfo, ReferenceGraph};
use crate::nar_hash::NarHash;
use crate::store_path::StorePath;

/// A path of a list.
#[derive(Debug, Clone)]
pub struct ListedPath<'a> {
    /// The path.
    pub path: StorePath,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// SHA-256 of its NAR, where it is known.
    pub nar_hash: Option<NarHash>,
    /// What it refers to, as places in the list, from 0; itself perhaps among them.
    pub references: &'a [u32],
}

impl ReferenceGraph {
    /// Makes a graph of a list of paths, and returns the node of each place. Roots are places, too. Closure
    /// sizes are computed.
    ///
    /// ```
    /// use nixery_core::{ListedPath, ReferenceGraph};
    /// use nixery_core::StorePath;
    /// let listed = |path: &str, references| ListedPath {
    ///     path: StorePath::parse(path).unwrap(),
    ///     nar_size: 40,
    ///     nar_hash: None,
    ///     references,
    /// };
    /// let list = [
    ///     listed("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12", &[0, 1]),
    ///     listed("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38", &[]),
    /// ];
    /// let (graph, places) = ReferenceGraph::from_list(&list, &[0])?;
    /// let [hello, glibc] = places[..] else { panic!("two places") };
    /// assert_eq!(graph.references(hello), [glibc]);
    /// assert_eq!(graph.node(hello).closure_size, 80);
    /// # Ok::<(), nixery_core::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// A path is there twice, or a number is no place of the list.
    pub fn from_list(
        list: &[ListedPath<'_>],
        roots: &[u32],
    ) -> Result<(Self, Vec<NodeId>), GraphError> {
        let count = list.len();
        if u32::try_from(count).is_err() {
            return Err(GraphError::TooManyPaths { count });
        }
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| list[a].path.cmp(&list[b].path));
        if let Some(pair) = order
            .windows(2)
            .find(|pair| list[pair[0]].path == list[pair[1]].path)
        {
            let path = list[pair[0]].path.to_string();
            return Err(GraphError::Twice { path });
        }
        let mut ids = vec![NodeId::new(0); count];
        for (id, &place) in (0..).zip(&order) {
            ids[place] = NodeId::new(id);
        }
        let id = |&place: &u32| {
            let id = ids.get(place as usize).copied();
            id.ok_or(GraphError::NoSuchPlace { place, count })
        };
        let mut graph = Self {
            nodes: Vec::with_capacity(count),
            references: Vec::new(),
            ends: Vec::with_capacity(count),
            roots: Vec::new(),
        };
        for &place in &order {
            let listed = &list[place];
            let found: Vec<NodeId> = listed.references.iter().map(id).collect::<Result<_, _>>()?;
            add(&mut graph.references, &found, ids[place]);
            graph.ends.push(graph.references.len());
            graph.nodes.push(PathInfo {
                path: listed.path.clone(),
                nar_hash: listed.nar_hash,
                nar_size: listed.nar_size,
                closure_size: 0,
            });
        }
        for root in roots {
            graph.roots.push(id(root)?);
        }
        graph.roots.sort_unstable();
        graph.roots.dedup();
        graph.compute_closure_sizes();
        Ok((graph, ids))
    }

    /// Sums up the NAR sizes of all closures.
    pub(super) fn compute_closure_sizes(&mut self) {
        let weights: Vec<u64> = self.nodes.iter().map(|node| node.nar_size).collect();
        let sums = closure_sums(&weights, |node| self.references(node));
        for (node, sum) in self.nodes.iter_mut().zip(sums) {
            node.closure_size = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::super::tests::path;
    use super::*;

    proptest! {
        #[test]
        fn a_list_gives_what_its_path_info_gives(
            references in proptest::collection::vec(proptest::collection::vec(0u32..8, 0..6), 8),
            hashes in proptest::collection::vec(proptest::option::of(any::<[u8; 32]>()), 8),
            sizes in proptest::collection::vec(0u64..1 << 40, 8),
            order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle(),
            roots in proptest::collection::vec(0u32..8, 0..4),
        ) {
            let names: Vec<String> = order.iter().map(|i| path(&format!("p{i}"))).collect();
            let list: Vec<ListedPath<'_>> = (0..8)
                .map(|i| ListedPath {
                    path: names[i].parse().unwrap(),
                    nar_size: sizes[i],
                    nar_hash: hashes[i].map(NarHash::from_bytes),
                    references: &references[i],
                })
                .collect();
            let infos: Vec<_> = (0..8)
                .map(|i| {
                    let references: Vec<_> = references[i].iter().map(|&r| &names[r as usize]).collect();
                    json!({
                        "path": names[i],
                        "narSize": sizes[i],
                        "narHash": hashes[i].map(NarHash::from_bytes),
                        "references": references
                    })
                })
                .collect();
            let root_paths: Vec<StorePath> =
                roots.iter().map(|&r| names[r as usize].parse().unwrap()).collect();
            let expected =
                ReferenceGraph::from_path_info(&serde_json::to_vec(&infos).unwrap(), &root_paths).unwrap();
            let (graph, places) = ReferenceGraph::from_list(&list, &roots).unwrap();
            prop_assert_eq!(&graph, &expected);
            for (listed, place) in list.iter().zip(places) {
                prop_assert_eq!(&graph.node(place).path, &listed.path);
            }
        }
    }

    #[rstest]
    #[case::twice(&["a", "b", "a"], &[], &[], "is there twice")]
    #[case::reference(&["a", "b"], &[1, 2], &[], "place 2 of a list of 2 paths")]
    #[case::root(&["a"], &[], &[1], "place 1 of a list of 1 paths")]
    #[case::empty(&[], &[], &[0], "place 0 of a list of 0 paths")]
    fn wrong_lists_are_refused(
        #[case] names: &[&str],
        #[case] references: &[u32],
        #[case] roots: &[u32],
        #[case] expected: &str,
    ) {
        let listed = |name: &&str| ListedPath {
            path: path(name).parse().unwrap(),
            nar_size: 1,
            nar_hash: None,
            references,
        };
        let list: Vec<_> = names.iter().map(listed).collect();
        let error = ReferenceGraph::from_list(&list, roots)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
