//! `nixery layers`: formats, inputs, and what it says about wrong ones.

mod common;

use common::{Place, finish};
use rstest::rstest;
use serde_json::{Value, json};

fn path(name: &str) -> String {
    // Any letter of Nix's base 32 does.
    let letter = name.to_lowercase().replace(['e', 'o', 'u', 't'], "0");
    format!(
        "/nix/store/{}-{name}",
        letter.chars().next().unwrap_or('0').to_string().repeat(32)
    )
}

/// The example that the original documents its algorithm with: A, B, C and D are asked for; A, B
/// and C need E, C needs D, D needs F and G. E is popular and G is big.
fn example() -> Vec<(String, u64, Vec<String>)> {
    let node = |name: &str, size: u64, references: &[&str]| {
        (
            path(name),
            size,
            references.iter().map(|name| path(name)).collect(),
        )
    };
    vec![
        node("A", 100_000, &["E"]),
        node("B", 100_000, &["E"]),
        node("C", 100_000, &["E", "D"]),
        node("D", 100_000, &["F", "G"]),
        node("E", 1_000_000, &[]),
        node("F", 2_000_000, &[]),
        node("G", 150_000_000, &[]),
    ]
}

fn path_info() -> Value {
    let nodes = example().into_iter().map(
        |(path, size, references)| json!({"path": path, "narSize": size, "references": references}),
    );
    Value::Array(nodes.collect())
}

fn graph() -> Value {
    let roots: Vec<_> = ["A", "B", "C", "D"].map(path).into();
    json!({"exportReferencesGraph": {"graph": roots}, "graph": path_info()})
}

fn place() -> Place {
    let place = Place::new();
    place.write("graph.json", graph().to_string());
    place.write("pop.json", r#"{"E": 100}"#);
    place
}

/// The layers as sorted strings of letters.
fn groups(json: &str) -> Vec<String> {
    let layers: Vec<Value> = serde_json::from_str(json).expect("JSON");
    let mut groups: Vec<String> = layers
        .iter()
        .map(|layer| {
            let contents = layer["contents"].as_array().expect("contents");
            let last = |path: &Value| path.as_str()?.chars().last();
            let mut letters: Vec<char> = contents.iter().filter_map(last).collect();
            letters.sort_unstable();
            letters.into_iter().collect()
        })
        .collect();
    groups.sort();
    groups
}

#[rstest]
#[case("nar", "1", &["ABCDEFG"])]
#[case("nar", "2", &["ABCDEF", "G"])]
#[case("nar", "3", &["ABCDF", "E", "G"])]
#[case("nar", "4", &["ABC", "DF", "E", "G"])]
#[case("nar", "10", &["A", "B", "C", "DF", "E", "G"])]
#[case("closure", "3", &["ABEG", "C", "DF"])]
fn the_documented_example_comes_out(
    #[case] weight: &str,
    #[case] budget: &str,
    #[case] expected: &[&str],
) {
    let json = place()
        .run(&[
            "layers",
            "graph.json",
            "--pop",
            "pop.json",
            "--weight",
            weight,
            "--budget",
            budget,
            "--format",
            "json",
        ])
        .ok();
    assert_eq!(groups(&json), expected);
}

#[test]
fn the_older_tools_flags_work() {
    let place = place();
    let flags = [
        "--graph",
        "graph.json",
        "--pop",
        "pop.json",
        "--out",
        "layers.json",
    ];
    let stdout = place
        .run(&[&["layers"][..], &flags, &["--budget", "10"]].concat())
        .ok();
    assert_eq!(stdout, "");
    let layers: Vec<Value> = serde_json::from_str(&place.read("layers.json")).expect("JSON");
    assert!(
        layers
            .iter()
            .all(|layer| layer["narSize"].is_u64() && layer["reason"].is_string())
    );
    let sizes: u64 = layers
        .iter()
        .filter_map(|layer| layer["narSize"].as_u64())
        .sum();
    assert_eq!(sizes, 153_400_000);
    for layer in &layers {
        let contents = layer["contents"].as_array().expect("contents");
        let paths: Vec<&str> = contents.iter().filter_map(Value::as_str).collect();
        assert_eq!(
            layer["original_key"],
            nixery_core::original_layer_key(&paths)
        );
    }
}

#[test]
fn path_info_gives_the_same_plan_as_the_graph() {
    let place = place();
    let from_graph = place
        .run(&["layers", "graph.json", "--format", "json"])
        .ok();
    let roots: Vec<_> = ["A", "B", "C", "D"]
        .map(|root| format!("--root={}", path(root)))
        .into();
    let mut arguments = vec!["layers", "-", "--format", "json"];
    arguments.extend(roots.iter().map(String::as_str));
    let input = path_info().to_string();
    assert_eq!(place.run_with(&arguments, &input).ok(), from_graph);
    // Without roots, those are what nothing refers to: here D is not.
    let guessed = place
        .run_with(&["layers", "-", "--budget", "1"], &input)
        .ok();
    assert!(guessed.contains("100.0%"), "{guessed}");
}

#[test]
fn the_table_is_for_people_and_the_picture_is_drawn() {
    let place = place();
    let table = place
        .run(&["layers", "graph.json", "--pop", "pop.json"])
        .ok();
    assert!(table.starts_with("layer "), "{table}");
    assert!(table.contains('E') && table.contains("total"), "{table}");
    for ending in ["dot", "gv"] {
        let out = format!("layers.{ending}");
        place.run(&["layers", "graph.json", "--out", &out]).ok();
        assert!(place.read(&out).starts_with("digraph"), "{out}");
    }
    if std::process::Command::new("dot")
        .arg("-V")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED the SVG part: Graphviz is not installed");
        return;
    }
    place
        .run(&["layers", "graph.json", "--out", "layers.svg"])
        .ok();
    let svg = place.read("layers.svg");
    assert!(svg.contains("<svg") && svg.contains("</svg>"), "{svg}");
}

#[test]
fn without_graphviz_the_error_says_how_to_install_it() {
    let place = place();
    let mut command = place.command(&["layers", "graph.json", "--format", "svg"]);
    finish(command.env("PATH", place.path("empty"))).failed(1, "apt-get install graphviz");
}

#[rstest]
#[case(&["layers"], 2, "GRAPH")]
#[case(&["layers", "graph.json", "--budget", "0"], 2, "--budget")]
#[case(&["layers", "graph.json", "--format", "png"], 2, "png")]
#[case(&["layers", "graph.json", "--graph", "graph.json"], 2, "cannot be used with")]
#[case(&["layers", "graph.json", "--root", "/nix/store/x"], 2, "--root")]
#[case(&["layers", "missing.json"], 1, "cannot read missing.json")]
#[case(&["layers", "./missing"], 2, "./missing is not a file or an image name: ")]
#[case(&["layers", "git@sha256:0"], 2, "an image is built by name and tag")]
#[case(&["layers", "git", "--root", "/nix/store/x"], 2, "the roots of an image are its packages")]
#[case(&["layers", "git", "--pkgs-path", "gone"], 2, "NIXERY_PKGS_PATH (--pkgs-path) is \"gone\"")]
#[case(&["layers", "pop.json"], 1, "pop.json is not a reference graph")]
#[case(&["layers", "text"], 1, "text is not a reference graph")]
#[case(&["layers", "cut.json"], 1, "cut.json is not a reference graph")]
#[case(&["layers", "dangling.json"], 1, "dangling.json is not a reference graph")]
#[case(&["layers", "graph.json", "--pop", "missing.json"], 1, "missing.json")]
#[case(&["layers", "graph.json", "--pop", "graph.json"], 1, "popularity")]
#[case(&["layers", "graph.json", "--out", "no/such/file"], 1, "cannot write no/such/file")]
fn wrong_input_is_named(#[case] arguments: &[&str], #[case] code: i32, #[case] problem: &str) {
    let place = place();
    place.write("text", "hello");
    place.write("cut.json", &graph().to_string()[..200]);
    let dangling = json!([{"path": path("A"), "narSize": 1, "references": [path("B")]}]);
    place.write("dangling.json", dangling.to_string());
    place.run(arguments).failed(code, problem);
}

#[test]
fn a_closed_standard_output_is_not_an_error() {
    let place = place();
    let mut child = place
        .command(&["layers", "graph.json", "--format", "dot"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
}
