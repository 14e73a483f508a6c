//! Replays a fuzz target's corpus in ordinary tests; the crates' `tests/corpus.rs` include it.

use std::fs;
use std::path::PathBuf;

/// Bytes that mean something to a parser.
const MUTATIONS: [u8; 8] = [0, b'"', b'/', b'.', b'9', b'A', b'}', 0xff];

/// Gives every seed of `target` to `check`, and small mutations of each: cut short, with a byte
/// changed, with a byte left out.
///
/// # Panics
/// If `check` does, or there are no seeds.
pub(crate) fn replay(target: &str, check: fn(&[u8])) {
    let corpora = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");
    let corpus = PathBuf::from(corpora).join(target);
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
