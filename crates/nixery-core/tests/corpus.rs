//! Replays the corpora of the fuzz targets, and small mutations of them, against the targets'
//! own properties. What fuzzing finds becomes a file of `fuzz/corpus`, and so a test.

use std::fs;
use std::path::PathBuf;

mod properties {
    pub(crate) mod image_name;
    pub(crate) mod reference_graph;
}

/// Bytes that mean something to a parser.
const MUTATIONS: [u8; 8] = [0, b'"', b'/', b'.', b'9', b'A', b'}', 0xff];

fn replay(target: &str, check: fn(&[u8])) {
    let corpus =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus")).join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(&corpus).expect("the corpus is a directory") {
        let path = entry.expect("it can be listed").path();
        // Shown if the property panics.
        println!("{}", path.display());
        let seed = fs::read(&path).expect("a seed is a file");
        check(&seed);
        for position in 0..seed.len() {
            check(&seed[..position]);
            let mut mutated = seed.clone();
            mutated[position] = MUTATIONS[position % MUTATIONS.len()];
            check(&mutated);
            mutated.remove(position);
            check(&mutated);
        }
        seeds += 1;
    }
    assert!(seeds > 0, "{} has no seeds", corpus.display());
}

#[test]
fn image_name() {
    replay("image_name", properties::image_name::check);
}

#[test]
fn reference_graph() {
    replay("reference_graph", properties::reference_graph::check);
}
