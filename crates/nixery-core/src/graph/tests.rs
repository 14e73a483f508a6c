use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

const HASH: &str = "sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s";

/// A store path whose hash is made from its name.
pub(crate) fn path(name: &str) -> String {
    let digit = |i: usize| {
        let byte = name.as_bytes()[i % name.len()] as usize + i / name.len();
        crate::base32::ALPHABET[byte % 32] as char
    };
    format!(
        "/nix/store/{}-{name}",
        (0..32).map(digit).collect::<String>()
    )
}

fn entry(name: &str, size: u64, references: &[&str]) -> Value {
    let references: Vec<String> = references.iter().map(|r| path(r)).collect();
    json!({ "path": path(name), "narHash": HASH, "narSize": size, "closureSize": size, "references": references })
}

fn export(roots: &[&str], entries: &[Value]) -> Vec<u8> {
    let roots: Vec<String> = roots.iter().map(|r| path(r)).collect();
    serde_json::to_vec(&json!({ "exportReferencesGraph": { "graph": roots }, "graph": entries }))
        .unwrap()
}

fn names(graph: &ReferenceGraph) -> Vec<&str> {
    graph.nodes().iter().map(|node| node.path.name()).collect()
}

fn parse_error(json: &[u8]) -> String {
    let error = ReferenceGraph::parse(json).unwrap_err();
    let source = std::error::Error::source(&error)
        .map(|s| format!(": {s}"))
        .unwrap_or_default();
    format!("{error}{source}")
}

#[test]
fn nodes_are_sorted_and_references_resolved() {
    let entries = [
        entry("c", 3, &["b", "a", "c", "b"]),
        entry("a", 1, &[]),
        entry("b", 2, &["a", "b"]),
    ];
    let graph = ReferenceGraph::parse(&export(&["c", "c"], &entries)).unwrap();
    assert_eq!(names(&graph), ["a", "b", "c"]);
    let places = |ids: &[NodeId]| -> Vec<u32> { ids.iter().map(|id| id.get()).collect() };
    let references: Vec<Vec<u32>> = graph.ids().map(|id| places(graph.references(id))).collect();
    assert_eq!(
        references,
        [&[][..], &[0], &[0, 1]],
        "sorted, once each, without itself"
    );
    assert_eq!(places(graph.roots()), [2], "hello/hello names one root");
    assert_eq!(
        graph.nodes()[0].nar_hash.unwrap(),
        NarHash::parse(HASH).unwrap()
    );
    assert_eq!(graph.total_nar_size(), 6);
    for (id, node) in graph.iter() {
        assert_eq!(graph.id_of(&node.path), Some(id));
    }
    assert_eq!(graph.id_of(&StorePath::parse(&path("d")).unwrap()), None);
}

#[test]
fn unknown_fields_are_ignored_however_deep() {
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let json = format!(
        r#"{{"outputs":{deep},"exportReferencesGraph":{{"graph":["{0}"],"other":[1]}},"builder":null,
           "graph":[{{"deriver":{deep},"path":"{0}","narSize":5,"closureSize":7,"references":[],"ca":{{}}}}]}}"#,
        path("a")
    );
    let graph = ReferenceGraph::parse(json.as_bytes()).unwrap();
    assert_eq!(
        (graph.nodes()[0].nar_size, graph.nodes()[0].closure_size),
        (5, 7)
    );
    assert_eq!(graph.nodes()[0].nar_hash, None);
}

#[test]
fn escapes_in_strings_are_understood() {
    let json = String::from_utf8(export(&["a"], &[entry("a", 1, &["a"])]))
        .unwrap()
        .replace("/nix", "\\/n\\u0069x");
    assert_eq!(
        names(&ReferenceGraph::parse(json.as_bytes()).unwrap()),
        ["a"]
    );
}

/// Neither borrows a string where another must copy it, nor the other way round.
#[test]
fn strings_are_the_same_however_they_are_written() {
    let entries = [entry("a", 1, &[]), entry("b", 2, &["a", "b"])];
    let plain = String::from_utf8(export(&["b"], &entries)).unwrap();
    let graph = ReferenceGraph::parse(plain.as_bytes()).unwrap();
    // Each second string is escaped.
    let mut place = 0;
    let mixed: String = plain
        .split_inclusive("/nix")
        .map(|part| {
            place += 1;
            match place % 2 {
                0 => part.to_owned(),
                _ => part.replace("/nix", "/n\\u0069x"),
            }
        })
        .collect();
    assert_eq!(ReferenceGraph::parse(mixed.as_bytes()).unwrap(), graph);
    // What is passed over need not be UTF-8; then nothing else is known to be.
    for text in [plain, mixed] {
        let mut json = b"{\"env\":\"\xff\",".to_vec();
        json.extend(&text.as_bytes()[1..]);
        assert_eq!(ReferenceGraph::parse(&json).unwrap(), graph);
    }
}

#[rstest]
#[case::missing_reference(&["a"], &[entry("a", 1, &["b"])], "-a refers to /nix/store/23456789abcdfghijklmnpqrsvwxyz01-b, which is not")]
#[case::missing_root(&["b"], &[entry("a", 1, &[])], "the root /nix/store/23456789abcdfghijklmnpqrsvwxyz01-b is not in")]
#[case::root_of_empty_graph(&["a"], &[], "the root /nix/store/")]
#[case::conflicting_size(&["a"], &[entry("a", 1, &[]), entry("a", 2, &[])], "-a is in the reference graph twice")]
#[case::conflicting_references(&["a"], &[entry("b", 1, &[]), entry("a", 1, &["b"]), entry("a", 1, &[])], "-a is in the reference graph twice")]
#[case::conflicting_third(&["a"], &[entry("a", 1, &[]), entry("a", 1, &[]), entry("a", 3, &[])], "-a is in the reference graph twice")]
fn refused(#[case] roots: &[&str], #[case] entries: &[Value], #[case] message: &str) {
    let error = parse_error(&export(roots, entries));
    assert!(error.contains(message), "{error}");
}

#[rstest]
#[case::not_json("{", "not the JSON that Nix writes: EOF")]
#[case::not_an_object("[]", "not the JSON that Nix writes: invalid")]
#[case::no_roots(r#"{"graph":[]}"#, "missing field `exportReferencesGraph`")]
#[case::no_graph(r#"{"exportReferencesGraph":{"graph":[]}}"#, "missing field `graph`")]
#[case::graph_twice(
    r#"{"exportReferencesGraph":{"graph":[]},"graph":[],"graph":[]}"#,
    "duplicate field `graph`"
)]
#[case::not_a_path(
    r#"{"exportReferencesGraph":{"graph":[]},"graph":[{"path":"/etc/passwd","narSize":1}]}"#,
    "\"/etc/passwd\" is not a store path"
)]
#[case::no_path(
    r#"{"exportReferencesGraph":{"graph":[]},"graph":[{"narSize":1}]}"#,
    "\"\" is not a store path"
)]
#[case::no_size(
    r#"{"exportReferencesGraph":{"graph":[]},"graph":[{"path":"$a"}]}"#,
    "-a has no `narSize`"
)]
#[case::negative(
    r#"{"exportReferencesGraph":{"graph":[]},"graph":[{"path":"$a","narSize":-1}]}"#,
    "integer `-1`, expected u64"
)]
#[case::too_large(r#"{"exportReferencesGraph":{"graph":[]},"graph":[{"path":"$a","narSize":18446744073709551616}]}"#, "expected u64")]
#[case::fraction(
    r#"{"exportReferencesGraph":{"graph":[]},"graph":[{"path":"$a","narSize":1.5}]}"#,
    "expected u64"
)]
#[case::bad_hash(r#"{"exportReferencesGraph":{"graph":[]},"graph":[{"path":"$a","narSize":1,"narHash":"md5:x"}]}"#, "-a cannot be read: \"md5:x\" is not a NAR hash")]
fn malformed(#[case] json: &str, #[case] message: &str) {
    let error = parse_error(json.replace("$a", &path("a")).as_bytes());
    assert!(error.contains(message), "{error}");
}

#[test]
fn identical_entries_count_once() {
    let entries = [
        entry("a", 1, &["b", "a"]),
        entry("b", 2, &[]),
        entry("a", 1, &["a", "b"]),
        entry("b", 2, &[]),
    ];
    let graph = ReferenceGraph::parse(&export(&["a"], &entries)).unwrap();
    assert_eq!(names(&graph), ["a", "b"]);
    assert_eq!(graph.references(NodeId::new(0)), [NodeId::new(1)]);
    assert_eq!(graph.roots(), [NodeId::new(0)]);
}

#[test]
fn empty_graphs_are_graphs() {
    let graph = ReferenceGraph::parse(&export(&[], &[])).unwrap();
    assert!(graph.is_empty() && graph.roots().is_empty() && graph.entry_points().is_empty());
    assert_eq!((graph.len(), graph.total_nar_size()), (0, 0));
    assert!(
        ReferenceGraph::from_path_info(b"[]", &[])
            .unwrap()
            .is_empty()
    );
    assert!(
        ReferenceGraph::from_path_info(b"{}", &[])
            .unwrap()
            .is_empty()
    );
}

#[test]
fn sizes_up_to_the_last_bit() {
    let max = u64::MAX;
    let entries = [entry("a", max, &["b"]), entry("b", max, &[])];
    let graph = ReferenceGraph::parse(&export(&["a"], &entries)).unwrap();
    assert_eq!(graph.total_nar_size(), 2 * u128::from(max));
    let json = json!([
        { "path": path("a"), "narSize": max, "references": [path("b")] },
        { "path": path("b"), "narSize": max, "references": [] },
    ]);
    let graph = ReferenceGraph::from_path_info(json.to_string().as_bytes(), &[]).unwrap();
    assert_eq!(graph.nodes()[0].closure_size, max, "saturates");
}

#[test]
fn cycles_are_one_closure() {
    let bare = |name: &str, size: u64, refs: &[&str]| {
        let refs: Vec<String> = refs.iter().map(|r| path(r)).collect();
        json!({ "path": path(name), "narSize": size, "references": refs })
    };
    let entries = [
        bare("a", 1, &["b"]),
        bare("b", 2, &["c", "d"]),
        bare("c", 4, &["a"]),
        bare("d", 8, &[]),
    ];
    let graph = ReferenceGraph::parse(&export(&["b"], &entries)).unwrap();
    let sizes: Vec<u64> = graph.nodes().iter().map(|n| n.closure_size).collect();
    assert_eq!(sizes, [15, 15, 15, 8]);
}

#[test]
fn what_no_root_reaches_gets_entry_points() {
    // a → b; c → d → c is a cycle apart from it; e → f, and e is not a root.
    let entries = [
        entry("a", 1, &["b"]),
        entry("b", 1, &[]),
        entry("c", 1, &["d"]),
        entry("d", 1, &["c"]),
        entry("e", 1, &["f"]),
        entry("f", 1, &[]),
    ];
    let graph = ReferenceGraph::parse(&export(&["a"], &entries)).unwrap();
    let entries: Vec<&str> = graph
        .entry_points()
        .iter()
        .map(|&id| graph.node(id).path.name())
        .collect();
    assert_eq!(entries, ["a", "c", "e"]);
}

#[test]
fn a_chain_of_100_000() {
    let n = 100_000;
    let name = |i: usize| format!("n{i:06}");
    let entries: Vec<Value> = (0..n)
        .map(|i| {
            let references = if i + 1 < n {
                vec![path(&name(i + 1))]
            } else {
                vec![]
            };
            json!({ "path": path(&name(i)), "narSize": 2, "references": references })
        })
        .collect();
    let graph = ReferenceGraph::parse(&export(&[&name(0)], &entries)).unwrap();
    assert_eq!(graph.node(graph.roots()[0]).closure_size, 200_000);
    assert_eq!(graph.entry_points(), graph.roots());
}

/// The same two paths as Nix 2.8, 2.26 and version 2 of the format print them.
#[rstest]
#[case::list(r#"[{"path":"$a","narHash":"sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=","narSize":5,"references":["$a","$b"],"registrationTime":1},
  {"path":"$b","narHash":"sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=","narSize":7,"references":[],"valid":true}]"#)]
#[case::map(r#"{"$a":{"ca":null,"narHash":"sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=","narSize":5,"references":["$b"],"signatures":[],"ultimate":true},
  "$b":{"narHash":"sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=","narSize":7,"references":[]}}"#)]
#[case::version_2(r#"{"info":{"%a":{"narHash":{"algorithm":"sha256","format":"base64","hash":"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="},"narSize":5,"references":["%b"]},
  "%b":{"narHash":{"algorithm":"sha256","format":"base16","hash":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},"narSize":7,"references":[]}},"storeDir":"/nix/store","version":2}"#)]
fn path_info(#[case] json: &str) {
    let (a, b) = (path("a"), path("b"));
    let json = json
        .replace("$a", &a)
        .replace("$b", &b)
        .replace("%a", &a[11..])
        .replace("%b", &b[11..]);
    let root = StorePath::parse(&a).unwrap();
    let graph = ReferenceGraph::from_path_info(json.as_bytes(), &[root]).unwrap();
    let expected = [entry("a", 5, &["b"]), entry("b", 7, &[])];
    let mut expected = ReferenceGraph::parse(&export(&["a"], &expected)).unwrap();
    expected.nodes[0].closure_size = 12;
    assert_eq!(graph, expected);
}

#[rstest]
#[case::list(r#"[{"path":"$a","valid":false}]"#, "-a is not in the Nix store")]
#[case::map(r#"{"$a":null}"#, "-a is not in the Nix store")]
#[case::null_path(r#"[{"path":null,"narSize":1}]"#, "not the JSON")]
#[case::no_path(r#"[{"narSize":1}]"#, "not the JSON")]
#[case::text(r#""x""#, "not the JSON")]
#[case::repeated_key(r#"{"$a":{"narSize":1},"$a":{"narSize":2}}"#, "twice")]
fn path_info_refused(#[case] json: &str, #[case] message: &str) {
    let error =
        ReferenceGraph::from_path_info(json.replace("$a", &path("a")).as_bytes(), &[]).unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
}

proptest! {
    #[test]
    fn order_of_the_input_is_irrelevant(
        edges in prop::collection::vec((0..12usize, 0..12usize), 0..40),
        (order, with_closure) in (Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(), any::<bool>()),
    ) {
        let name = |i: usize| format!("n{i}");
        let make = |i: usize, reverse: bool| {
            let mut references: Vec<String> =
                edges.iter().filter(|e| e.0 == i).map(|e| path(&name(e.1))).collect();
            if reverse { references.reverse(); }
            let mut entry = json!({ "path": path(&name(i)), "narSize": 1 << i, "references": references });
            if with_closure { entry["closureSize"] = json!(i); }
            entry
        };
        let straight: Vec<Value> = (0..12).map(|i| make(i, false)).collect();
        let shuffled: Vec<Value> = order.iter().map(|&i| make(i, true)).collect();
        let one = ReferenceGraph::parse(&export(&["n0", "n1"], &straight)).unwrap();
        let other = ReferenceGraph::parse(&export(&["n1", "n0"], &shuffled)).unwrap();
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(&ReferenceGraph::parse(&one.to_json()).unwrap(), &one);
        prop_assert_eq!(one.to_json(), other.to_json());
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in r#"[\[\]{}",:a-z0-9/.-]{0,100}"#) {
        let _ = ReferenceGraph::parse(&bytes);
        let _ = ReferenceGraph::from_path_info(text.as_bytes(), &[]);
    }
}

mod from_json {
    use rstest::rstest;

    use super::*;

    fn graph(json: &str, roots: &[&str]) -> Result<ReferenceGraph, GraphError> {
        let json = json.replace("A", &path("a")).replace("B", &path("b"));
        let roots: Vec<StorePath> = roots.iter().map(|r| path(r).parse().unwrap()).collect();
        ReferenceGraph::from_json(json.as_bytes(), &roots)
    }

    #[rstest]
    #[case::list(
        r#"[{"path":"A","narSize":1,"references":["B"]},{"path":"B","narSize":2,"references":[]}]"#
    )]
    #[case::map(r#"{"A":{"narSize":1,"references":["B"]},"B":{"narSize":2,"references":[]}}"#)]
    #[case::export(
        r#"{"exportReferencesGraph":{"graph":["A"]},"graph":[
            {"path":"A","narSize":1,"references":["B"]},{"path":"B","narSize":2,"references":[]}]}"#
    )]
    fn every_form_gives_the_same_graph(#[case] json: &str) {
        let graph = graph(json, &[]).unwrap();
        let roots: Vec<_> = graph
            .roots()
            .iter()
            .map(|&r| graph.node(r).path.name())
            .collect();
        assert_eq!((graph.len(), roots), (2, vec!["a"]));
    }

    #[test]
    fn roots_are_for_path_information_only() {
        let list = r#"[{"path":"A","narSize":1,"references":[]},{"path":"B","narSize":2,"references":[]}]"#;
        assert_eq!(graph(list, &["b"]).unwrap().roots().len(), 1);
        assert_eq!(graph(list, &[]).unwrap().roots().len(), 2);
        let export = r#"{"exportReferencesGraph":{"graph":[]},"graph":[]}"#;
        assert!(matches!(
            graph(export, &["a"]),
            Err(GraphError::RootsNotAllowed)
        ));
    }

    #[rstest]
    #[case("")]
    #[case("7")]
    #[case(r#"{"glibc-2.38":312}"#)]
    fn other_json_is_refused(#[case] json: &str) {
        assert!(matches!(graph(json, &[]), Err(GraphError::UnknownJson)));
    }
}

mod part {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_is_what_parsing_it_alone_gives() {
        let node = |name: &str, size: u64, references: &[&str]| {
            let references: Vec<String> = references.iter().map(|name| path(name)).collect();
            json!({ "path": path(name), "narSize": size, "references": references })
        };
        let (a, b, c, d) = (
            node("app-1", 5, &["cycle-1"]),
            node("base-1", 7, &[]),
            node("cycle-1", 11, &["dcycle-1"]),
            node("dcycle-1", 13, &["cycle-1", "base-1"]),
        );
        let parse = |roots: &[&str], nodes: &[&serde_json::Value]| {
            let roots: Vec<String> = roots.iter().map(|name| path(name)).collect();
            let json = json!({ "exportReferencesGraph": { "graph": roots }, "graph": nodes });
            ReferenceGraph::parse(json.to_string().as_bytes()).unwrap()
        };
        let whole = parse(&[], &[&a, &b, &c, &d]);
        let index = |name: &str| whole.id_of(&path(name).parse().unwrap()).unwrap();

        let (part, places) =
            whole.part(&[index("cycle-1"), index("cycle-1"), NodeId::new(u32::MAX)]);
        assert_eq!(part, parse(&["cycle-1"], &[&b, &c, &d]));
        let back: Vec<_> = places.iter().map(|&old| &whole.node(old).path).collect();
        let own: Vec<_> = part.nodes().iter().map(|node| &node.path).collect();
        assert_eq!(back, own);

        let (everything, _) = whole.part(&[index("app-1"), index("base-1")]);
        assert_eq!(everything, parse(&["app-1", "base-1"], &[&a, &b, &c, &d]));
        assert!(whole.part(&[]).0.is_empty());
    }
}

mod list {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

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
    #[case::twice(&["a", "b", "a"], &[], &[], "is in the list twice")]
    #[case::reference(&["a", "b"], &[1, 2], &[], "names path 2, but there are only 2")]
    #[case::root(&["a"], &[], &[1], "names path 1, but there are only 1")]
    #[case::empty(&[], &[], &[0], "names path 0, but there are only 0")]
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
