//! Counting references, to make popularity data.

use std::collections::{BTreeMap, BTreeSet};

use nixery_core::{HASH_LEN, PathReferences, StorePath};
use serde::{Deserialize, Serialize};

use crate::reference_sink::ReferenceSink;

/// Counts how many paths refer to each name, from any mixture of sources.
///
/// Each referring path counts once, even if several sources have it; a path's reference to itself
/// does not count. (The original's `popcount` counts these too, and removes them by dropping counts
/// of one.)
///
/// ```
/// use nixery_lab::{popularity::PopularityCounter, reference_sink::ReferenceSink};
/// let mut counter = PopularityCounter::default();
/// for hash in ["3n58xw4373jp0ljirf06d8077j15pc4j", "4n58xw4373jp0ljirf06d8077j15pc4j"] {
///     let narinfo = format!(
///         "StorePath: /nix/store/{hash}-hello-2.12\nNarSize: 40\n\
///          References: 00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38 {hash}-hello-2.12\n"
///     );
///     counter.add_narinfo(&narinfo).unwrap();
/// }
/// assert_eq!(counter.to_json(), br#"{"glibc-2.38":2}"#);
/// ```
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PopularityCounter {
    /// Hashes of the paths whose references are counted.
    seen: BTreeSet<Box<str>>,
    counts: BTreeMap<String, u64>,
}

impl ReferenceSink for PopularityCounter {
    const NEEDS_SIZE: bool = false;

    fn add_references(&mut self, path: &PathReferences<'_>) {
        let own = path.base_name();
        if !self.seen.insert(own[..HASH_LEN].into()) {
            return;
        }
        let references: BTreeSet<&str> = path.references().iter().copied().collect();
        for reference in references.into_iter().filter(|&reference| reference != own) {
            let name = &reference[HASH_LEN + 1..];
            match self.counts.get_mut(name) {
                Some(count) => *count = count.saturating_add(1),
                None => drop(self.counts.insert(name.to_owned(), 1)),
            }
        }
    }

    fn contains(&self, path: &StorePath) -> bool {
        self.seen.contains(path.hash_part())
    }

    fn paths(&self) -> usize {
        self.seen.len()
    }
}

impl PopularityCounter {
    /// Returns the counts as a JSON object sorted by name, which
    /// [`Popularity::from_json`](nixery_core::Popularity::from_json) reads. Counts of one are left
    /// out, because unknown names count as one.
    pub fn to_json(&self) -> Vec<u8> {
        let counts = self.counts.iter().filter(|&(_, &count)| count > 1);
        serde_json::to_vec(&counts.collect::<BTreeMap<_, _>>())
            .expect("a map of names and counts serialises to JSON")
    }
}

#[cfg(test)]
mod tests {
    use nixery_core::ReferenceGraph;
    use rstest::rstest;

    use super::*;
    use crate::reference_sink::ReferenceError;

    fn base(letter: char, name: &str) -> String {
        format!("{}-{name}", letter.to_string().repeat(32))
    }

    fn narinfo(own: &str, references: &[String]) -> String {
        format!(
            "StorePath: /nix/store/{own}\r\nURL: nar/x\nNarSize: 1\nReferences: {}\n",
            references.join(" ")
        )
    }

    fn path_info(own: &str, references: &[String]) -> String {
        let references: Vec<String> = references
            .iter()
            .map(|r| format!("\"/nix/store/{r}\""))
            .collect();
        format!(
            r#"[{{"path":"/nix/store/{own}","narSize":1,"references":[{}]}}]"#,
            references.join(",")
        )
    }

    /// The paths a and b refer to c; a refers to itself as well, b to another path with c's name.
    fn sample() -> Vec<(String, Vec<String>)> {
        let (a, b, c, d) = (
            base('a', "a-1"),
            base('b', "b-1"),
            base('c', "c-1"),
            base('d', "c-1"),
        );
        vec![
            (a.clone(), vec![a, c.clone()]),
            (b, vec![c.clone(), d.clone()]),
            (c, vec![]),
            (d, vec![]),
        ]
    }

    #[test]
    fn sources_agree() {
        let (mut from_narinfo, mut from_list) =
            (PopularityCounter::default(), PopularityCounter::default());
        for (own, references) in sample() {
            // Twice: a path counts once.
            for _ in 0..2 {
                from_narinfo
                    .add_narinfo(&narinfo(&own, &references))
                    .unwrap();
                from_list
                    .add_path_info(path_info(&own, &references).as_bytes())
                    .unwrap();
            }
        }
        let lists: Vec<String> = sample()
            .iter()
            .map(|(own, refs)| path_info(own, refs))
            .collect();
        let whole = lists.join("").replace("][", ",");
        let mut from_graph = PopularityCounter::default();
        from_graph.add_graph(&ReferenceGraph::from_path_info(whole.as_bytes(), &[]).unwrap());
        for counter in [from_narinfo, from_list, from_graph] {
            assert_eq!(counter.to_json(), br#"{"c-1":3}"#);
            assert_eq!(counter.paths(), 4);
            assert!(
                counter.contains(
                    &StorePath::parse(&format!("/nix/store/{}", base('a', "a-1"))).unwrap()
                )
            );
        }
    }

    #[test]
    fn a_count_can_be_resumed() {
        let mut whole = PopularityCounter::default();
        let mut parts = PopularityCounter::default();
        for (own, references) in sample() {
            whole.add_narinfo(&narinfo(&own, &references)).unwrap();
            parts.add_narinfo(&narinfo(&own, &references)).unwrap();
            parts = PopularityCounter::from_state(&parts.to_state()).unwrap();
        }
        assert_eq!(
            (parts.to_state(), parts.to_json()),
            (whole.to_state(), whole.to_json())
        );
        assert!(matches!(
            PopularityCounter::from_state(b"{}"),
            Err(ReferenceError::State(_))
        ));
    }

    #[test]
    fn counts_of_one_are_left_out_but_continued() {
        let mut counter = PopularityCounter::default();
        counter
            .add_narinfo(&narinfo(&base('a', "a-1"), &[base('c', "c-1")]))
            .unwrap();
        assert_eq!(counter.to_json(), b"{}");
        counter
            .add_narinfo(&narinfo(&base('b', "b-1"), &[base('c', "c-1")]))
            .unwrap();
        assert_eq!(counter.to_json(), br#"{"c-1":2}"#);
    }

    /// A state comes from a file, which may hold anything.
    #[test]
    fn counts_saturate() {
        let state = format!(r#"{{"seen":[],"counts":{{"c-1":{}}}}}"#, u64::MAX);
        let mut counter = PopularityCounter::from_state(state.as_bytes()).unwrap();
        counter
            .add_narinfo(&narinfo(&base('a', "a-1"), &[base('c', "c-1")]))
            .unwrap();
        assert_eq!(
            counter.to_json(),
            format!(r#"{{"c-1":{}}}"#, u64::MAX).as_bytes()
        );
    }

    #[rstest]
    #[case::no_path("References: \n", "no line `StorePath:`")]
    #[case::no_references(
        "StorePath: /nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a\n",
        "no line `References:`"
    )]
    #[case::bad_path("StorePath: a\nReferences: \n", "cannot be used")]
    #[case::bad_reference(
        "StorePath: /nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a\nReferences: b\n",
        "cannot be used"
    )]
    #[case::html("<html>", "no line")]
    fn narinfo_refused(#[case] text: &str, #[case] message: &str) {
        let mut counter = PopularityCounter::default();
        let error = counter.add_narinfo(text).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(counter.paths(), 0);
    }

    #[test]
    fn path_info_refused() {
        let mut counter = PopularityCounter::default();
        assert!(matches!(
            counter.add_path_info(b"{"),
            Err(ReferenceError::PathInfo(_))
        ));
        let bad = path_info(&base('a', "a"), &["x".to_owned()]);
        assert!(matches!(
            counter.add_path_info(bad.as_bytes()),
            Err(ReferenceError::Path(_))
        ));
        counter
            .add_path_info(br#"{"/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a":null}"#)
            .unwrap();
        assert_eq!(
            counter.paths(),
            0,
            "a path that is not valid has no references"
        );
    }
}
