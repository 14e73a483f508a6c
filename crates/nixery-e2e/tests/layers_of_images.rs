//! `nixery layers` with the name of an image: the layers that a build would give it, without the
//! build.

use nixery_e2e::build::build;
use nixery_e2e::command::run;
use nixery_e2e::{demo_set, layering, program};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// `nixery layers` in a folder, where it must leave nothing.
fn layers(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("nixery"));
    command
        .arg("layers")
        .args(arguments)
        .env("NIXERY_PKGS_PATH", demo_set())
        .current_dir(folder);
    command
}

fn json(mut command: Command) -> Value {
    serde_json::from_str(&run(&mut command).success()).expect("JSON")
}

/// The store paths of each layer, sorted in it.
fn paths<'a>(
    layers: &'a Value,
    paths: &str,
    path: impl Fn(&'a Value) -> &'a Value,
) -> Vec<Vec<&'a str>> {
    let layers = layers.as_array().expect("layers").iter();
    layers
        .map(|layer| {
            let list = layer[paths].as_array().expect("paths").iter();
            let mut list: Vec<_> = list
                .map(|entry| path(entry).as_str().expect("a path"))
                .collect();
            list.sort_unstable();
            list
        })
        .collect()
}

#[test]
#[ignore = "needs Nix: run make test"]
fn explain_tells_what_a_build_makes() {
    let (folder, plans) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = tempfile::tempdir().unwrap();
    let plan = layering::plan(plans.path()).display().to_string();
    let image = "shell/git/htop";
    for budget in ["1", "20", "94"] {
        // Without a word, as a registry without data.
        let cases: [(&[&str], &[&str]); 3] = [
            (&[], &["--layer-strategy", "size"]),
            (
                &["--strategy", "dominator"],
                &["--layer-strategy", "dominator"],
            ),
            (&["--plan", &plan], &["--layer-plan", &plan]),
        ];
        for (told, built) in cases {
            let flags = [&["explain", image, "--json", "--budget", budget], told].concat();
            let explained = json(layers(folder.path(), &flags));
            let told = paths(&explained["layers"], "paths", |path| &path["path"]);

            let flags = [&["--layer-budget", budget], built].concat();
            let nixery = Command::new(program("nixery"));
            let built = build(nixery, image, &demo_set(), storage.path(), &flags);
            let mut made: Vec<_> = built
                .layers()
                .into_iter()
                .map(|layer| layer.paths)
                .collect();
            assert_eq!(
                made.pop(),
                Some(Vec::new()),
                "the root layer, which is not told"
            );
            made.iter_mut().for_each(|paths| paths.sort());
            assert_eq!(told, made, "{flags:?}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
#[ignore = "needs Nix: run make test"]
fn an_image_is_compared_and_drawn_as_a_graph_is() {
    let folder = tempfile::tempdir().unwrap();
    let rows = json(layers(folder.path(), &["compare", "hello", "--json"]));
    let rows = rows.as_array().expect("rows");
    assert_eq!(rows.len(), 2, "{rows:?}");
    for row in rows {
        assert!(row["layers"].as_u64() > Some(1), "{row}");
    }
    let drawn = ["compare", "arm64/hello", "--out", "layers.svg"];
    run(&mut layers(folder.path(), &drawn)).success();
    let svg = std::fs::read_to_string(folder.path().join("layers.svg")).unwrap();
    assert!(
        svg.contains("arm64/hello: ") && svg.contains("in at most 93 layers"),
        "{svg}"
    );
    let table = run(&mut layers(folder.path(), &["hello"])).success();
    assert!(table.contains("glibc-2"), "{table}");

    // A folder of that name is no graph, a file is; a tag says that an image is meant.
    std::fs::create_dir(folder.path().join("hello")).unwrap();
    run(&mut layers(folder.path(), &["hello"])).success();
    std::fs::write(folder.path().join("jq"), "no graph").unwrap();
    let said = run(&mut layers(folder.path(), &["jq"])).failure();
    assert!(said.contains("jq is not a reference graph"), "{said}");
    run(&mut layers(folder.path(), &["jq:latest"])).success();
}

#[test]
#[ignore = "needs Nix: run make test"]
fn what_keeps_an_image_from_being_built_is_told_as_a_build_tells_it() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(&mut layers(folder.path(), &["explain", "git/nope/nada"])).failure();
    for part in [
        "error: git/nope/nada is not a file, and its image cannot be built",
        "caused by: the package set has no packages `nada` and `nope`",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let mut command = layers(folder.path(), &["compare", "fails"]);
    let said = run(command.env("NIXERY_PKGS_PATH", nixery_e2e::test_set())).failure();
    for part in [
        "the end of the build's log:",
        "  fails: this is the reason it fails",
        "error: package `fails` failed",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
