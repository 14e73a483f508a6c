//! `nixery lab plan`: made from samples, files and a cache; read; refused.

#![cfg(feature = "lab")]

mod common;

use common::Place;
use nixery_core::{Architecture, ReferenceGraph};
use nixery_manifest::Digest;
use nixery_state::graphs::{self, RecordedGraph};
use nixery_storage::FilesystemStorage;
use rstest::rstest;
use serde_json::Value;

fn hash(i: usize) -> String {
    format!("{i:032}")
}

/// Package i of a set: 0 is glibc, which all need, 1 a library of 2 and 3; the rest stand alone.
fn narinfo(i: usize) -> String {
    let name = match i {
        0 => "glibc-2.42".to_owned(),
        1 => "libedit-3.1".to_owned(),
        i => format!("tool{i}-1.{i}"),
    };
    let references = match i {
        0 => String::new(),
        2 | 3 => format!("{}-libedit-3.1 {}-glibc-2.42", hash(1), hash(0)),
        _ => format!("{}-glibc-2.42", hash(0)),
    };
    let size = if i == 0 { 30_000_000 } else { 100_000 + i };
    format!(
        "StorePath: /nix/store/{}-{name}\nNarSize: {size}\nReferences: {references}\n",
        hash(i)
    )
}

fn set() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("set")).expect("a directory");
    for i in 0..20 {
        place.write(&format!("set/{i}.narinfo"), narinfo(i));
    }
    place
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Records an image with tool i, as a server does that builds it.
fn record(place: &Place, i: usize) {
    let entries: Vec<String> = [0, 1, i].into_iter().map(entry).collect();
    let root = format!("/nix/store/{}-tool{i}-1.{i}", hash(i));
    let graph = ReferenceGraph::from_path_info(
        format!("[{}]", entries.join(",")).as_bytes(),
        &[root.parse().expect("a store path")],
    );
    let graph = graph.expect("a graph");
    let recorded = RecordedGraph {
        name: format!("tool{i}"),
        packages: vec![format!("tool{i}")],
        architecture: Architecture::Amd64,
        compressed_sizes: vec![1; graph.len()],
        graph,
    };
    let storage = FilesystemStorage::open(place.path("store")).expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let key = Digest::of(&i.to_le_bytes());
    let written = runtime
        .expect("a runtime")
        .block_on(graphs::record(&storage, key, recorded));
    written.expect("is recorded");
}

#[test]
fn what_a_store_remembers_becomes_a_plan() {
    let place = Place::new();
    let build = |out: &str| {
        let flags = ["--from-store", "--storage-path", "store", "--out", out];
        place.run(&[&["lab", "plan", "build"][..], &flags].concat())
    };
    build("p").failed(1, "store");
    FilesystemStorage::open(place.path("store")).expect("a store");
    build("p").failed(
        1,
        "no reference graph is recorded in filesystem store. Fix: build images first",
    );

    for i in 2..6 {
        record(&place, i);
    }
    let said = build("a")
        .noting("4 images recorded in filesystem store")
        .noting("8 samples of 4 packages, 4 of them images")
        .ok();
    assert!(said.contains("made from  history"), "{said}");
    build("b").ok();
    let bytes = |name: &str| std::fs::read(place.path(name)).expect("a plan");
    assert_eq!(bytes("a"), bytes("b"));
    let name = ["lab", "plan", "show", "a", "--json", "--name", "glibc"];
    assert_eq!(
        json(&place.run(&name).ok())["members"][0]["samples"],
        8,
        "in every sample"
    );

    // A damaged one is reported and left out, also together with other sources.
    let damaged = place
        .path("store/graphs")
        .join(Digest::of(b"damaged").hex());
    std::fs::write(damaged, "junk").expect("writes");
    place.write("tool9.narinfo", narinfo(9));
    let run = place.run(&[
        "lab",
        "plan",
        "build",
        "tool9.narinfo",
        "--from-store",
        "--storage-path",
        "store",
        "--out",
        "c",
        "--samples",
        "5",
    ]);
    let said = run
        .noting("warning: 1 recorded graphs are left out")
        .noting("5 samples of 5 packages, 4 of them images")
        .ok();
    assert!(said.contains("made from  tool9.narinfo, history"), "{said}");
}

const SAMPLE: &str = r#"{
    "packages": [["editor", 9000000, [1, 2]], ["libtext", 30000, [2]], ["libc", 8000000, []]],
    "samples": [[0], [0], [2], [2]]
}"#;

#[test]
fn a_sample_becomes_a_plan_that_can_be_read() {
    let place = Place::new();
    place.write("sample.json", SAMPLE);
    let build = [
        "lab",
        "plan",
        "build",
        "--sample",
        "sample.json",
        "--out",
        "p.nixery",
    ];
    let said = place.run(&build).ok();
    assert!(said.contains("3, in 2 clusters"), "{said}");
    let shown = place.run(&["lab", "plan", "show", "p.nixery"]).ok();
    assert_eq!(shown, said);
    assert!(shown.contains("made from  sample.json"), "{shown}");

    let summary = json(
        &place
            .run(&["lab", "plan", "show", "p.nixery", "--json"])
            .ok(),
    );
    assert_eq!(summary["names"], 3);
    assert_eq!(summary["clusters"], 2);
    assert_eq!(summary["samples"], 4);
    assert_eq!(
        summary["size"],
        std::fs::metadata(place.path("p.nixery")).expect("it").len()
    );
    assert!(
        summary["digest"]
            .as_str()
            .is_some_and(|d| d.starts_with("sha256:"))
    );

    let of = |name: &str| {
        let flags = ["lab", "plan", "show", "p.nixery", "--json", "--name", name];
        json(&place.run(&flags).ok())
    };
    assert_eq!(of("libtext")["cluster"], "editor");
    assert_eq!(
        of("libtext-1.0")["members"].as_array().map(Vec::len),
        Some(2)
    );
    let path = format!("/nix/store/{}-libc-2.42", hash(1));
    assert_eq!(of(&path)["members"][0]["samples"], 4);
    let flags = ["lab", "plan", "show", "p.nixery", "--name", "editor"];
    let table = place.run(&flags).ok();
    assert!(table.contains("shares a layer with one other"), "{table}");
    let flags = ["lab", "plan", "show", "p.nixery", "--name", "emacs-30"];
    place.run(&flags).failed(1, "no package `emacs`");
}

#[test]
fn the_same_set_gives_the_same_bytes_whatever_describes_it() {
    let place = set();
    let entries: Vec<String> = (0..20).rev().map(entry).collect();
    place.write("all.json", format!("[{}]", entries.join(",")));
    for (source, out) in [("set", "a"), ("set", "b"), ("all.json", "c")] {
        let flags = [
            "lab",
            "plan",
            "build",
            source,
            "--out",
            out,
            "--revision",
            "r",
            "--samples",
            "9",
        ];
        place.run(&flags).ok();
    }
    let bytes = |name: &str| std::fs::read(place.path(name)).expect("a plan");
    assert_eq!(bytes("a"), bytes("b"));
    assert_eq!(bytes("a"), bytes("c"));
    let flags = [
        "lab",
        "plan",
        "build",
        "set",
        "--out",
        "d",
        "--revision",
        "r",
        "--samples",
        "9",
        "--seed",
        "7",
    ];
    place.run(&flags).ok();
    assert_ne!(bytes("a"), bytes("d"));
}

/// The same as [`narinfo`], as path-info has it.
fn entry(i: usize) -> String {
    let text = narinfo(i);
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.expect("a field").trim().to_owned()
    };
    let references: Vec<String> = field("References:")
        .split_whitespace()
        .map(|reference| format!("\"/nix/store/{reference}\""))
        .collect();
    format!(
        r#"{{"path":"{}","narSize":{},"references":[{}]}}"#,
        field("StorePath:"),
        field("NarSize:"),
        references.join(",")
    )
}

#[test]
fn a_state_continues_a_run() {
    let place = set();
    place.write("19.narinfo", narinfo(19));
    std::fs::remove_file(place.path("set/19.narinfo")).expect("a file");
    let build = |sources: &[&str], out: &str| {
        let flags = ["--state", "state", "--revision", "r", "--out", out];
        place.run(&[&["lab", "plan", "build"], sources, &flags].concat())
    };
    build(&["set"], "part").ok();
    build(&["19.narinfo"], "resumed")
        .noting("continuing from 19 read paths")
        .noting("20 samples of 20 packages")
        .ok();
    let flags = [
        "lab",
        "plan",
        "build",
        "set",
        "19.narinfo",
        "--revision",
        "r",
        "--out",
        "whole",
    ];
    place.run(&flags).ok();
    let bytes = |name: &str| std::fs::read(place.path(name)).expect("a plan");
    assert_eq!(bytes("resumed"), bytes("whole"));
    assert_ne!(bytes("part"), bytes("whole"));
}

#[test]
fn dangling_references_are_reported() {
    let place = Place::new();
    place.write("x.narinfo", narinfo(2));
    place
        .run(&["lab", "plan", "build", "x.narinfo", "--out", "p"])
        .noting("warning: 2 references are left out")
        .ok();
}

#[rstest]
#[case::nothing(&[], 2, "there is nothing to make a plan of")]
#[case::all_and_some(&["--all", "--attrs", "git"], 2, "cannot be used with")]
#[case::no_set(&["--all", "--pkgs-path", "gone"], 2, "NIXERY_PKGS_PATH (--pkgs-path) is \"gone\"")]
#[case::sample_and_source(&["set", "--sample", "s"], 2, "cannot be used with")]
#[case::sample_and_samples(&["--sample", "s", "--samples", "5"], 2, "cannot be used with '--samples")]
#[case::sample_and_seed(&["--sample", "s", "--seed", "5"], 2, "cannot be used with '--seed")]
#[case::sample_and_state(&["--sample", "s", "--state", "x"], 2, "cannot be used with '--state")]
#[case::sample_and_store(&["--sample", "s", "--from-store"], 2, "cannot be used with '--from-store")]
#[case::sample_and_attributes(&["--sample", "s", "--attrs", "git"], 2, "cannot be used with '--attrs")]
#[case::tag_of_nothing(&["set", "--tag", "x"], 2, "--attrs")]
#[case::paths_without_cache(&["set", "--store-paths", "x"], 2, "--store-paths needs")]
#[case::cache_without_paths(&["http://127.0.0.1:1"], 2, "a binary cache has no list of its paths")]
#[case::missing(&["gone"], 1, "cannot read gone")]
#[case::missing_sample(&["--sample", "gone"], 1, "cannot read gone")]
#[case::bad_sample(&["--sample", "set/0.narinfo"], 1, "set/0.narinfo cannot be used")]
#[case::two_lines(&["set", "--revision", "a\nb"], 2, "revision must be one line")]
fn wrong_arguments_are_named_and_nothing_is_written(
    #[case] flags: &[&str],
    #[case] code: i32,
    #[case] problem: &str,
) {
    let place = set();
    let run = place.run(&[&["lab", "plan", "build", "--out", "p"], flags].concat());
    run.failed(code, problem);
    assert!(!place.path("p").exists());
}

/// It may be set in the environment for other commands, so it is not an error.
#[test]
fn an_unused_package_set_causes_a_warning() {
    let place = set();
    let warning = "warning: the package set is not used. Fix: select packages";
    let flags = ["lab", "plan", "build", "set", "--out", "p"];
    place
        .run(&[&flags[..], &["--pkgs-path", "gone"]].concat())
        .noting(warning)
        .ok();
    let run = place.run(&flags);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
}

#[test]
fn a_file_that_is_not_a_plan_is_refused() {
    let place = set();
    let run = place.run(&["lab", "plan", "show", "set/0.narinfo"]);
    run.failed(1, "set/0.narinfo cannot be used");
    let run = place.run(&["lab", "plan", "show", "gone"]);
    run.failed(1, "cannot read a cluster plan from gone");
}

#[test]
fn an_existing_plan_is_replaced_atomically() {
    let place = set();
    place.write("p", "an older plan");
    place
        .run(&["lab", "plan", "build", "gone", "--out", "p"])
        .failed(1, "cannot read gone");
    assert_eq!(place.read("p"), "an older plan");
    place
        .run(&["lab", "plan", "build", "set", "--out", "p"])
        .ok();
    place.run(&["lab", "plan", "show", "p"]).ok();
}
