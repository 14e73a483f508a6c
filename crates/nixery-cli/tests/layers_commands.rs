//! `nixery layers explain` and `compare`, and `nixery lab replay`.

mod common;

use common::Place;
use nixery_core::{ClusterPlan, PlannedPackage};
use rstest::rstest;
use serde_json::{Value, json};

fn path(letter: char, name: &str) -> String {
    format!("/nix/store/{}-{name}", letter.to_string().repeat(32))
}

/// git needs curl and libc, curl needs libc.
fn graph() -> Value {
    let (libc, curl, git) = (path('c', "libc-2"), path('b', "curl-8"), path('a', "git-2"));
    json!({
        "exportReferencesGraph": { "graph": [git] },
        "graph": [
            { "path": git, "narSize": 3_000_000, "references": [curl, libc] },
            { "path": curl, "narSize": 1_000_000, "references": [libc] },
            { "path": libc, "narSize": 2_000_000, "references": [] },
        ],
    })
}

/// Two images that share libc, one client; app is new in the second week.
fn workload() -> Value {
    json!({
        "paths": [
            [path('c', "libc-1"), 100_000, 40_000, []],
            [path('b', "app-1"), 50_000, 20_000, [0]],
            [path('d', "tool-1"), 30_000, 10_000, [0]],
            [path('a', "app-2"), 60_000, 25_000, [0]],
        ],
        "weeks": [[[1], [2]], [[3], [2]]],
        "events": [[0, 7, [0, 1], [0, 1]], [1, 7, [0, 1], [0, 1]]],
    })
}

fn place() -> Place {
    let place = Place::new();
    place.write("graph.json", graph().to_string());
    place.write("workload.json", workload().to_string());
    place.write("pop.json", r#"{"libc-1": 500, "libc-2": 500}"#);
    let package = |name: &str, cluster: &str, samples| PlannedPackage {
        name: name.to_owned(),
        cluster: cluster.to_owned(),
        samples,
    };
    let packages = [
        package("libc", "libc", 200),
        package("git", "curl", 5),
        package("curl", "curl", 30),
    ];
    let plan = ClusterPlan::new("a test".to_owned(), 200, packages).expect("a plan");
    place.write("test.plan", plan.to_bytes());
    place
}

fn json_of(place: &Place, arguments: &[&str]) -> Value {
    let arguments = [&["layers"], arguments].concat();
    json_of_command(place, &arguments)
}

fn json_of_command(place: &Place, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&place.run(&arguments).ok()).expect("JSON")
}

#[test]
fn explain_shows_how_widely_each_path_is_shared() {
    let place = place();
    let by_plan = place
        .run(&["layers", "explain", "graph.json", "--plan", "test.plan"])
        .ok();
    for line in [
        "shared: its paths are in 2.5 % to 15.0 % of the 200 images that the plan was made from",
        &format!("      3.0 MB    2.5 %  {}", path('a', "git-2")),
        &format!("      1.0 MB   15.0 %  {}", path('b', "curl-8")),
        "shared: its paths are in 100.0 % of the 200 images that the plan was made from",
        "2 layers, 3 paths, 6.0 MB, by plan/1 ",
    ] {
        assert!(by_plan.contains(line), "{line:?} is not in: {by_plan}");
    }

    // What another version counts, as for servers.
    place.write("old.json", r#"{"libc-1": 500}"#);
    let by_popularity = json_of(&place, &["explain", "graph.json", "--pop", "old.json"]);
    assert_eq!(by_popularity["sharedBy"], "popularity");
    let layers = by_popularity["layers"].as_array().expect("layers");
    let libc = layers
        .iter()
        .find(|layer| layer["shared"]["least"] == 500)
        .expect("libc is popular");
    assert_eq!(
        libc["paths"],
        json!([{ "path": path('c', "libc-2"), "narSize": 2_000_000, "shared": 500 }])
    );
    assert!(
        libc["reason"]
            .as_str()
            .expect("a reason")
            .contains("500 packages"),
        "{libc}"
    );

    let by_graph = json_of(
        &place,
        &[
            "explain",
            "graph.json",
            "--strategy",
            "size",
            "--budget",
            "1",
        ],
    );
    assert_eq!(by_graph["sharedBy"], "graph");
    let layer = &by_graph["layers"][0];
    assert_eq!(layer["shared"], json!({ "least": 0, "most": 2 }));
    let sizes: Vec<_> = layer["paths"]
        .as_array()
        .expect("paths")
        .iter()
        .map(|path| path["narSize"].as_u64())
        .collect();
    assert_eq!(
        sizes,
        [Some(3_000_000), Some(2_000_000), Some(1_000_000)],
        "the largest first"
    );
}

#[test]
fn compare_has_a_row_and_a_panel_for_each_strategy() {
    let place = place();
    let data = ["--plan", "test.plan", "--pop", "pop.json"];
    let arguments = [&["compare", "graph.json", "--out", "c.svg"][..], &data].concat();
    let rows = json_of(&place, &arguments);
    let names: Vec<_> = rows
        .as_array()
        .expect("rows")
        .iter()
        .filter_map(|row| row["strategy"].as_str())
        .collect();
    let expected = [
        "dominator, no popularity",
        "dominator, popularity of exact names",
        "dominator, popularity of any version",
        "size",
        "plan",
    ];
    assert_eq!(names, expected);
    let plan = &rows[4];
    assert_eq!(
        (&plan["layers"], &plan["narSize"]),
        (&json!(2), &json!(6_000_000))
    );
    assert_eq!(
        (&plan["largest"], &plan["smallest"]),
        (&json!(4_000_000), &json!(2_000_000))
    );
    let svg = place.read("c.svg");
    let bars: u64 = rows
        .as_array()
        .expect("rows")
        .iter()
        .filter_map(|row| row["layers"].as_u64())
        .sum();
    assert_eq!(svg.matches("</title></rect>").count() as u64, bars);
    for name in expected {
        assert!(svg.contains(&format!(">{name}: ")), "{name}");
    }

    let table = place
        .run(&[
            "layers",
            "compare",
            "graph.json",
            "--strategy",
            "size",
            "--budget",
            "1",
        ])
        .ok();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1],
        ["size", "1", "6.0", "MB", "6.0", "MB", "6.0", "MB"]
    );
    assert_eq!(table.lines().last(), Some("3 paths, 6.0 MB uncompressed"));
}

#[cfg(feature = "lab")]
#[test]
fn replay_counts_between_the_bounds() {
    let place = place();
    let table = place
        .run(&[
            "lab",
            "replay",
            "workload.json",
            "--strategy",
            "dominator",
            "--pop",
            "pop.json",
            "--out",
            "w.svg",
        ])
        .ok();
    let row = |name: &str| {
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("{name}  ")))
            .expect("a row");
        line[name.len()..]
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // libc, app-1, tool; then app-2.
    assert_eq!(
        row("one layer per path")[..5],
        ["95.000", "1.000", "4", "50.0", "%"]
    );
    // Both images; then app-2 with libc once more.
    assert_eq!(
        row("one layer")[..5],
        ["175.000", "1.842", "3", "25.0", "%"]
    );
    assert_eq!(
        row("dominator, popularity of exact names")[..5],
        ["95.000", "1.000", "4", "50.0", "%"]
    );
    assert!(table.starts_with("bytes in kB"), "{table}");
    let summary = "4 pulls of 3 distinct images by 1 clients in 2 weeks; 4 store paths";
    assert_eq!(table.lines().last(), Some(summary));
    let svg = place.read("w.svg");
    assert!(svg.contains(">one layer: 175.000 kB</text>"), "{svg}");
    assert_eq!(
        svg.matches("</title></circle>").count(),
        5 * 2,
        "a dot for each row and week"
    );

    let rows = json_of_command(
        &place,
        &[
            "lab",
            "replay",
            "workload.json",
            "--strategy",
            "plan",
            "--plan",
            "test.plan",
            "--budget",
            "1",
        ],
    );
    let names: Vec<_> = rows
        .as_array()
        .expect("rows")
        .iter()
        .filter_map(|row| row["strategy"].as_str())
        .collect();
    assert_eq!(names, ["one layer per path", "plan", "one layer"]);
    assert_eq!(rows[1]["bytes"], rows[2]["bytes"]);
    assert_eq!(rows[0]["bytesByWeek"], json!([70_000, 25_000]));
    assert_eq!(rows[0]["storedBytes"], json!(95_000));
}

#[test]
fn a_plan_decides_where_one_is_given() {
    let place = place();
    let json = |arguments: &[&str]| {
        let arguments = [&["layers", "graph.json", "--format", "json"][..], arguments].concat();
        place.run(&arguments).ok()
    };
    let by_plan = json(&["--plan", "test.plan"]);
    assert_eq!(
        by_plan,
        json(&["--plan", "test.plan", "--strategy", "plan"])
    );
    assert_ne!(
        by_plan,
        json(&["--plan", "test.plan", "--strategy", "dominator"])
    );
}

/// A graph's layers are those that a registry with the same data would make.
#[test]
fn options_of_dominator_select_it() {
    let place = place();
    let json = |arguments: &[&str]| {
        let arguments = [&["layers", "graph.json", "--format", "json"][..], arguments].concat();
        place.run(&arguments).ok()
    };
    let (size, dominator) = (
        json(&["--strategy", "size"]),
        json(&["--strategy", "dominator"]),
    );
    assert_ne!(size, dominator);
    assert_eq!(json(&[]), size);
    for given in [["--threshold", "100"], ["--weight", "closure"]] {
        assert_eq!(json(&given), dominator, "{given:?}");
    }
}

#[test]
fn standard_output_is_for_results() {
    let place = place();
    place
        .run(&["layers", "compare", "graph.json", "--out", "-"])
        .failed(2, "name a file");
}

#[cfg(feature = "lab")]
#[test]
fn standard_output_is_for_results_in_the_laboratory() {
    let place = place();
    for command in [
        &["lab", "replay", "workload.json", "--out", "-"][..],
        &["lab", "plan", "build", "graph.json", "--out", "-"],
    ] {
        place.run(command).failed(2, "name a file");
    }
}

/// Variables of a registry are for images, and do not count as arguments.
#[test]
fn a_package_source_in_the_environment_is_ignored_for_a_graph() {
    let place = place();
    let mut command = place.command(&["layers", "compare", "graph.json"]);
    common::finish(command.env("NIXERY_PKGS_PATH", "gone")).ok();
}

/// What a plan comes from is the server's: see its own tests for http.
#[test]
fn a_plan_is_a_path_or_a_url() {
    let place = place();
    let url = format!("file://{}", place.path("test.plan").display());
    let explain = |plan: &str| json_of(&place, &["explain", "graph.json", "--plan", plan]);
    assert_eq!(explain(&url), explain("test.plan"));
    let nowhere = [
        "layers",
        "compare",
        "graph.json",
        "--plan",
        "http://127.0.0.1:1/plan",
    ];
    let run = place.run(&nowhere);
    run.failed(
        1,
        "cannot fetch a cluster plan from http://127.0.0.1:1/plan",
    );
}

#[rstest]
#[case(&["explain"], 2, "GRAPH")]
#[case(&["explain", "missing.json"], 1, "cannot read missing.json")]
#[case(&["compare", "Git"], 2, "Git is not a file or an image name: ")]
#[case(&["explain", "graph.json", "--strategy", "plan"], 2, "Fix: name one with --plan FILE")]
#[case(&["explain", "graph.json", "--plan", "missing.plan"], 1, "missing.plan")]
#[case(&["explain", "graph.json", "--plan", "pop.json"], 1, "pop.json")]
#[case(&["compare", "workload.json"], 1, "workload.json is not a reference graph")]
#[case(&["compare", "graph.json", "--strategy", "best"], 2, "best")]
#[case(&["compare", "graph.json", "--out", "no/such/file.svg"], 1, "cannot write no/such/file.svg")]
#[case(&["graph.json", "explain"], 2, "explain")]
fn wrong_input_is_named(#[case] arguments: &[&str], #[case] code: i32, #[case] problem: &str) {
    place()
        .run(&[&["layers"], arguments].concat())
        .failed(code, problem);
}

#[cfg(feature = "lab")]
#[rstest]
#[case(&[], 2, "WORKLOAD")]
#[case(&["missing.json"], 1, "cannot read missing.json")]
#[case(&["graph.json"], 1, "graph.json is not a workload")]
#[case(&["workload.json", "--budget", "0"], 2, "--budget")]
fn wrong_workloads_are_named(#[case] arguments: &[&str], #[case] code: i32, #[case] problem: &str) {
    place()
        .run(&[&["lab", "replay"], arguments].concat())
        .failed(code, problem);
}
