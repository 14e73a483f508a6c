//! Reading files: `.narinfo`, `nix path-info --json`, reference graphs.

use std::fs;
use std::io;
use std::path::Path;

use crate::reference_sink::ReferenceSink;
use nixery_core::{JsonKind, ReferenceGraph};

use super::PathSourceError;

/// What was read in a directory or file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FoundFiles {
    /// `.narinfo` files.
    pub narinfos: u64,
    /// Files that `nix path-info --json` wrote.
    pub path_infos: u64,
    /// Reference graphs.
    pub graphs: u64,
}

impl FoundFiles {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.narinfos + self.path_infos + self.graphs
    }
}

/// Reads a file, told apart by its contents, or all `.narinfo` and `.json` files of a directory,
/// in the order of their names; not of the directories in it. `progress` is called for each file.
///
/// # Errors
/// The first file that cannot be used, by name; those before it are taken.
pub fn add_path(
    sink: &mut impl ReferenceSink,
    path: &Path,
    mut progress: impl FnMut(&FoundFiles),
) -> Result<FoundFiles, PathSourceError> {
    let read = |source| PathSourceError::Read {
        path: path.to_owned(),
        source,
    };
    let mut found = FoundFiles::default();
    if !fs::metadata(path).map_err(read)?.is_dir() {
        add_file(sink, path, &mut found)?;
        progress(&found);
        return Ok(found);
    }
    let entries: Result<Vec<_>, io::Error> = fs::read_dir(path)
        .map_err(read)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let mut files = entries.map_err(read)?;
    files.retain(|file| {
        let extension = file.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("narinfo" | "json")) && file.is_file()
    });
    files.sort();
    for file in &files {
        add_file(sink, file, &mut found)?;
        progress(&found);
    }
    if files.is_empty() {
        return Err(PathSourceError::NothingFound {
            path: path.to_owned(),
        });
    }
    Ok(found)
}

fn add_file(
    sink: &mut impl ReferenceSink,
    path: &Path,
    found: &mut FoundFiles,
) -> Result<(), PathSourceError> {
    let bytes = fs::read(path).map_err(|source| PathSourceError::Read {
        path: path.to_owned(),
        source,
    })?;
    let malformed = |source| PathSourceError::Malformed {
        location: path.display().to_string(),
        source,
    };
    match kind(path, &bytes) {
        Some(Kind::NarInfo) => {
            let text = String::from_utf8_lossy(&bytes);
            sink.add_narinfo(&text).map_err(malformed)?;
            found.narinfos += 1;
        }
        Some(Kind::Json(JsonKind::PathInfo)) => {
            sink.add_path_info(&bytes).map_err(malformed)?;
            found.path_infos += 1;
        }
        Some(Kind::Json(JsonKind::Graph)) => {
            let graph = ReferenceGraph::parse(&bytes).map_err(|source| PathSourceError::Graph {
                path: path.to_owned(),
                source,
            })?;
            sink.add_graph(&graph);
            found.graphs += 1;
        }
        None => {
            return Err(PathSourceError::UnknownFile {
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}

enum Kind {
    NarInfo,
    Json(JsonKind),
}

fn kind(path: &Path, bytes: &[u8]) -> Option<Kind> {
    if path
        .extension()
        .is_some_and(|extension| extension == "narinfo")
    {
        return Some(Kind::NarInfo);
    }
    let narinfo = || {
        bytes
            .split(|&byte| byte == b'\n')
            .any(|line| line.starts_with(b"StorePath:"))
            .then_some(Kind::NarInfo)
    };
    JsonKind::of(bytes).map(Kind::Json).or_else(narinfo)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::popularity::PopularityCounter;

    const A: &str = "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-a-1";
    const B: &str = "/nix/store/4n58xw4373jp0ljirf06d8077j15pc4j-b-1";
    const C: &str = "/nix/store/5n58xw4373jp0ljirf06d8077j15pc4j-c-1";

    fn narinfo(path: &str, reference: &str) -> String {
        let reference = reference.trim_start_matches("/nix/store/");
        format!("StorePath: {path}\nNarSize: 5\nReferences: {reference}\n")
    }

    /// a and b refer to c, in every format there is.
    #[rstest]
    #[case::list(
        "list.json",
        format!(r#" [{{"path":"{A}","narSize":1,"references":["{C}"]}},{{"path":"{B}","narSize":1,"references":["{C}"]}}]"#)
    )]
    #[case::map(
        "map.json",
        format!(r#"{{ "{A}":{{"narSize":1,"references":["{C}"]}},"{B}":{{"narSize":1,"references":["{C}"]}}}}"#)
    )]
    #[case::version_two(
        "two.json",
        format!(r#"{{"info":{{"{}":{{"narSize":1,"references":["{C}"]}},"{}":{{"narSize":1,"references":["{C}"]}}}},"storeDir":"/nix/store","version":2}}"#, &A[11..], &B[11..]).replace(&format!("\"{C}"), &format!("\"{}", &C[11..]))
    )]
    #[case::graph(
        "graph.json",
        format!(r#"{{"exportReferencesGraph":{{"graph":["{A}","{B}"]}},"graph":[
            {{"path":"{A}","narSize":1,"closureSize":2,"references":["{C}"]}},
            {{"path":"{B}","narSize":1,"closureSize":2,"references":["{C}"]}},
            {{"path":"{C}","narSize":1,"closureSize":1,"references":[]}}]}}"#)
    )]
    fn json_is_told_apart_by_its_contents(#[case] name: &str, #[case] json: String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        fs::write(&file, json).unwrap();
        let mut counter = PopularityCounter::default();
        let found = add_path(&mut counter, &file, |_| ()).expect("counted");
        assert_eq!(found.total(), 1);
        assert_eq!(counter.to_json(), br#"{"c-1":2}"#);
    }

    #[test]
    fn a_directory_is_counted_and_other_files_in_it_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("a.narinfo"), narinfo(A, C)).unwrap();
        fs::write(at("b.narinfo"), narinfo(B, C)).unwrap();
        fs::write(at("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        fs::create_dir(at("nar.json")).unwrap();
        let mut counter = PopularityCounter::default();
        let mut calls = 0;
        let found = add_path(&mut counter, directory.path(), |_| calls += 1).expect("counted");
        assert_eq!((found.narinfos, found.total(), calls), (2, 2, 2));
        assert_eq!(counter.to_json(), br#"{"c-1":2}"#);
    }

    #[rstest]
    #[case("text", "hello", "is neither")]
    #[case("empty", "", "is neither")]
    #[case("x.narinfo", "hello", "cannot be used")]
    #[case("x.json", "[1", "cannot be used")]
    #[case("x.json", r#"{"graph": 7}"#, "cannot be used")]
    #[case::popularity("x.json", r#"{"glibc-2.36": 7}"#, "is neither")]
    fn wrong_files_are_named(#[case] name: &str, #[case] contents: &str, #[case] problem: &str) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        fs::write(&file, contents).unwrap();
        let error = add_path(&mut PopularityCounter::default(), &file, |_| ()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(problem), "{message}");
        assert!(message.contains(file.to_str().unwrap()), "{message}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let count = |path: &Path| {
            let mut counter = PopularityCounter::default();
            add_path(&mut counter, path, |_| ())
                .unwrap_err()
                .to_string()
        };
        assert!(count(directory.path()).contains("holds no .narinfo or .json file"));
        assert!(count(&directory.path().join("missing")).contains("cannot read"));
    }
}
