//! The file of a graph, and files that are not graphs.

use std::time::Duration;

use nixery_storage::MemoryStorage;
use proptest::prelude::*;
use rstest::rstest;

use nixery_core::NodeId;

use super::*;
use crate::testing::world::store_path;

const HASH: &str = "00bgd045z0d4icpbc2yyz4gx48ak44la";

/// Names with sizes and references.
fn graph(paths: &[(&str, u64, &[&str])], roots: &[&str]) -> ReferenceGraph {
    let infos: Vec<_> = paths
        .iter()
        .map(|(name, size, references)| {
            let references: Vec<_> = references.iter().map(|name| store_path(name)).collect();
            serde_json::json!({
                "path": store_path(name), "narSize": size, "references": references,
            })
        })
        .collect();
    let roots: Vec<_> = roots.iter().map(|name| store_path(name)).collect();
    let json = serde_json::to_vec(&infos).expect("serialises");
    ReferenceGraph::from_path_info(&json, &roots).expect("a graph")
}

/// An image of layers with these compressed sizes and paths.
fn recorded_of(layers: &[(u64, &[&str])], graph: ReferenceGraph) -> RecordedGraph {
    let digest = Digest::of(b"any");
    let layers: Vec<_> = layers
        .iter()
        .map(|(size, paths)| LayerSummary {
            digest,
            diff_id: digest,
            size: *size,
            tar_size: 1,
            paths: paths.iter().map(|name| store_path(name)).collect(),
            reason: String::new(),
            cached: false,
        })
        .collect();
    let packages = vec!["git".to_owned(), "htop".to_owned()];
    RecordedGraph::new(
        "git/htop".to_owned(),
        packages,
        Architecture::Arm64,
        &layers,
        graph,
    )
}

fn recorded() -> RecordedGraph {
    let graph = graph(
        &[
            ("git-2", 3000, &["libc-1", "git-2"]),
            ("htop-3", 1000, &["libc-1"]),
            ("libc-1", 500, &[]),
        ],
        &["git-2", "htop-3"],
    );
    recorded_of(
        &[(1001, &["git-2", "htop-3"]), (7, &["libc-1"]), (90, &[])],
        graph,
    )
}

#[test]
fn a_graph_round_trips() {
    let recorded = recorded();
    let size = |name: &str| {
        let place = recorded.graph.id_of(&store_path(name)).expect("is there");
        recorded.compressed_sizes[place.index()]
    };
    assert_eq!(size("libc-1"), 7);
    let (git, htop) = (size("git-2"), size("htop-3"));
    assert_eq!(git + htop, 1001, "every byte is assigned");
    assert!((750..=751).contains(&git), "three quarters: {git}");
    let bytes = recorded.to_bytes().expect("is written");
    assert_eq!(
        RecordedGraph::from_bytes(&bytes).expect("is read"),
        recorded
    );
    assert_eq!(recorded.to_bytes().expect("is written"), bytes);
}

/// The format that other versions of this program have to read.
#[test]
fn the_format_is_pinned() {
    let graph = graph(
        &[("git-2", 3000, &["libc-1"]), ("libc-1", 500, &[])],
        &["git-2"],
    );
    let recorded = recorded_of(&[(10, &["git-2"]), (7, &["libc-1"])], graph);
    let text = decompress(&recorded.to_bytes().expect("is written"));
    let (git, libc) = (store_path("git-2"), store_path("libc-1"));
    assert!(git < libc);
    assert_eq!(
        text,
        format!(
            r#"{{"version":1,"name":"git/htop","packages":["git","htop"],"architecture":"arm64","roots":[0],"paths":[["{git}",3000,10,[1]],["{libc}",500,7,[]]]}}"#
        ),
        "after an intended change, raise VERSION"
    );
}

fn decompress(bytes: &[u8]) -> String {
    String::from_utf8(zstd::decode_all(bytes).expect("zstd")).expect("UTF-8")
}

fn compress(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 1).expect("zstd")
}

fn file(roots: &str, paths: &str) -> String {
    format!(
        r#"{{"version":1,"later":{{}},"name":"a","packages":["a"],"architecture":"amd64","roots":{roots},"paths":{paths}}}"#
    )
}

#[rstest]
#[case::not_json("{", "JSON")]
#[case::no_version("{}", "JSON")]
#[case::newer(r#"{"version":2,"other":"shape"}"#, "version 2")]
#[case::root(&file("[0]", "[]"), "not a reference graph")]
#[case::reference(&file("[]", &format!(r#"[["/nix/store/{HASH}-a",1,1,[1]]]"#)), "not a reference graph")]
#[case::no_path(&file("[]", r#"[["/etc/passwd",1,1,[]]]"#), "not a reference graph")]
#[case::no_root(&file("[0]", r#"[["/etc/passwd",1,1,[]]]"#), "not a reference graph")]
#[case::twice(&file("[]", &format!(r#"[["/nix/store/{HASH}-a",1,1,[]],["/nix/store/{HASH}-a",1,1,[]]]"#)), "not a reference graph")]
#[case::unsorted(&file("[]", &format!(r#"[["/nix/store/{HASH}-b",1,1,[]],["/nix/store/{HASH}-a",1,1,[]]]"#)), "not sorted")]
#[case::negative(&file("[]", &format!(r#"[["/nix/store/{HASH}-a",-1,1,[]]]"#)), "JSON")]
fn a_file_that_is_not_a_graph_is_refused(#[case] text: &str, #[case] expected: &str) {
    let error = RecordedGraph::from_bytes(&compress(text)).expect_err("is refused");
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn unusual_graphs_are_read() {
    let most = u64::MAX;
    let text = file(
        "[0,0]",
        &format!(r#"[["/nix/store/{HASH}-a",{most},{most},[0,0]]]"#),
    );
    let read = RecordedGraph::from_bytes(&compress(&text)).expect("is read");
    assert_eq!(
        (read.graph.roots(), read.graph.references(NodeId::new(0))),
        (&[NodeId::new(0)][..], &[][..])
    );
    assert!(RecordedGraph::from_bytes(&compress(&file("[]", "[]"))).is_ok());
}

#[test]
fn a_decompression_bomb_is_refused() {
    let bomb = zstd::encode_all(std::io::repeat(b' ').take_bytes(80 << 20), 1).expect("zstd");
    assert!(bomb.len() < 100_000);
    let error = RecordedGraph::from_bytes(&bomb).expect_err("is refused");
    assert!(matches!(error, GraphFileError::TooLarge), "{error}");
}

trait TakeBytes: std::io::Read + Sized {
    fn take_bytes(self, bytes: u64) -> std::io::Take<Self> {
        self.take(bytes)
    }
}
impl<R: std::io::Read> TakeBytes for R {}

proptest! {
    #[test]
    fn damage_is_detected(place in any::<prop::sample::Index>(), flip in 1..=255_u8, cut in any::<bool>()) {
        let mut bytes = recorded().to_bytes().expect("is written");
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] ^= flip;
        }
        // The last bit of a descriptor, and some of a checksum's flags, mean nothing.
        if let Ok(read) = RecordedGraph::from_bytes(&bytes) {
            prop_assert_eq!(read, recorded());
        }
    }

    #[test]
    fn any_input_is_handled(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
        let _ = RecordedGraph::from_bytes(&bytes);
        let _ = RecordedGraph::from_bytes(&compress(&text));
    }

    /// For all sizes, the bytes of a layer are assigned to its paths.
    #[test]
    fn every_byte_of_a_layer_is_assigned(sizes in prop::collection::vec(any::<u64>(), 1..6), layer in any::<u64>()) {
        let names: Vec<String> = (0..sizes.len()).map(|n| format!("p-{n}")).collect();
        let paths: Vec<(&str, u64, &[&str])> =
            names.iter().zip(&sizes).map(|(name, size)| (&**name, *size, &[][..])).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let recorded = recorded_of(&[(layer, &all)], graph(&paths, &[]));
        let sum: u128 = recorded.compressed_sizes.iter().copied().map(u128::from).sum();
        prop_assert_eq!(sum, u128::from(layer));
    }
}

#[tokio::test(start_paused = true)]
async fn graphs_are_listed_newest_first_and_read() {
    let storage = crate::testing::world::memory();
    let keys = [b"a", b"b", b"c"].map(|name| Digest::of(name));
    for key in keys {
        record(&*storage, key, recorded()).await.expect("is stored");
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    let listed = list(&*storage).await.expect("lists");
    let order: Vec<_> = listed.iter().map(|entry| entry.key).collect();
    assert_eq!(order, [keys[2], keys[1], keys[0]]);
    assert!(
        listed
            .iter()
            .all(|entry| entry.size > 0 && entry.written.is_some())
    );
    let read = read(&*storage, keys[1]).await.expect("reads");
    assert_eq!(read, Some(recorded()));
}

#[tokio::test]
async fn a_missing_graph_is_none_and_a_damaged_one_is_an_error() {
    let storage = MemoryStorage::new();
    let key = Digest::of(b"key");
    assert_eq!(read(&storage, key).await.expect("works"), None);
    let object = Key::new(GRAPHS, key);
    let put = storage.put(&object, "junk".into(), PutMode::Replace);
    let _ = put.await.expect("is stored");
    let error = read(&storage, key).await.expect_err("not a graph");
    assert_eq!(
        error.to_string(),
        format!(
            "graphs/{} is not a recorded graph that this version can read",
            key.hex()
        )
    );
}
