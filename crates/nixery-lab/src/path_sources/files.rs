//! Reading files: `.narinfo`, `nix path-info --json`, reference graphs.

use std::fs;
use std::path::Path;

use nixery_core::{JsonKind, ReferenceGraph};

use super::PathSourceError;
use crate::reference_sink::{ReferenceError, ReferenceSink};

/// Reads a file, whose contents determine its kind, or all `.narinfo` and `.json` files of a
/// directory, in the order of their names, but not of its subdirectories. `progress` is called with
/// the number of files that were read. Returns that number.
///
/// # Errors
/// The first file that cannot be used, by name; the files before it are added.
pub fn add_path(
    sink: &mut impl ReferenceSink,
    path: &Path,
    mut progress: impl FnMut(usize),
) -> Result<usize, PathSourceError> {
    let unreadable = PathSourceError::io("read", path);
    if !fs::metadata(path).map_err(&unreadable)?.is_dir() {
        add_file(sink, path)?;
        progress(1);
        return Ok(1);
    }
    let entries = fs::read_dir(path).map_err(&unreadable)?;
    let files = entries.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    files.retain(|file| {
        let extension = file.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("narinfo" | "json")) && file.is_file()
    });
    files.sort();
    for (index, file) in files.iter().enumerate() {
        add_file(sink, file)?;
        progress(index + 1);
    }
    if files.is_empty() {
        let path = path.to_owned();
        return Err(PathSourceError::NoPathInfo { path });
    }
    Ok(files.len())
}

fn add_file(sink: &mut impl ReferenceSink, path: &Path) -> Result<(), PathSourceError> {
    let bytes = fs::read(path).map_err(PathSourceError::io("read", path))?;
    let has_extension = path
        .extension()
        .is_some_and(|extension| extension == "narinfo");
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let added = match JsonKind::of(&bytes).filter(|_| !has_extension) {
        Some(JsonKind::PathInfo) => sink.add_path_info(&bytes),
        Some(JsonKind::Graph) => ReferenceGraph::parse(&bytes)
            .map(|graph| sink.add_graph(&graph))
            .map_err(ReferenceError::Graph),
        None if has_extension || lines.any(|line| line.starts_with(b"StorePath:")) => {
            sink.add_narinfo(&String::from_utf8_lossy(&bytes))
        }
        None => {
            let path = path.to_owned();
            return Err(PathSourceError::NoPathInfo { path });
        }
    };
    added.map_err(|source| PathSourceError::malformed(path, source))
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

    /// The paths a and b refer to c, in every format.
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
    fn the_contents_of_json_determine_its_kind(#[case] name: &str, #[case] json: String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        fs::write(&file, json).unwrap();
        let mut counter = PopularityCounter::default();
        let found = add_path(&mut counter, &file, |_| ()).expect("counted");
        assert_eq!(found, 1);
        assert_eq!(counter.to_json(), br#"{"c-1":2}"#);
    }

    #[test]
    fn only_narinfo_and_json_files_of_a_directory_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("a.narinfo"), narinfo(A, C)).unwrap();
        fs::write(at("b.narinfo"), narinfo(B, C)).unwrap();
        fs::write(at("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        fs::create_dir(at("nar.json")).unwrap();
        let mut counter = PopularityCounter::default();
        let mut calls = 0;
        let found = add_path(&mut counter, directory.path(), |_| calls += 1).expect("counted");
        assert_eq!((found, calls), (2, 2));
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
    fn a_path_without_path_information_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let count = |path: &Path| {
            let mut counter = PopularityCounter::default();
            add_path(&mut counter, path, |_| ())
                .unwrap_err()
                .to_string()
        };
        assert!(count(directory.path()).contains("nor a directory with .narinfo or .json files"));
        assert!(count(&directory.path().join("missing")).contains("cannot read"));
    }
}
