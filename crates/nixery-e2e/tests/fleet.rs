//! What each layer strategy moves in a fleet's history of pulls: the figures of `docs/layering.md`.

use std::path::Path;
use std::process::Command;

use nixery_e2e::command::run;
use nixery_e2e::program;
use serde_json::Value;

/// Unpacks a file of `data/fleet` into a folder.
fn unpack(name: &str, folder: &Path) {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/fleet")
        .join(format!("{name}.zst"));
    let packed = std::fs::read(packed).expect("it is checked in");
    let bytes = zstd::decode_all(&*packed).expect("it is whole");
    std::fs::write(folder.join(name), bytes).expect("a new file");
}

fn nixery(folder: &Path, arguments: &[&str]) -> String {
    let ran = run(Command::new(program("nixery"))
        .current_dir(folder)
        .args(arguments));
    assert!(ran.ok, "{arguments:?}: {}", ran.stderr);
    ran.stdout
}

/// Times 1,000,000,000 bytes.
fn gb(row: &Value) -> f64 {
    row["bytes"].as_u64().expect("a number") as f64 / 1e9
}

#[test]
fn a_fleet_moves_what_the_documentation_says() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    for name in ["workload.json", "plan-sample.json", "popcount.json"] {
        unpack(name, folder);
    }
    let make = |out| {
        let sample = [
            "lab",
            "plan",
            "build",
            "--sample",
            "plan-sample.json",
            "--quiet",
        ];
        nixery(folder, &[&sample[..], &["--out", out]].concat());
        std::fs::read(folder.join(out)).expect("a plan")
    };
    assert!(make("a.plan") == make("b.plan"), "two plans of one sample");

    let json = nixery(
        folder,
        &[
            "lab",
            "replay",
            "workload.json",
            "--budget",
            "94",
            "--plan",
            "a.plan",
            "--pop",
            "popcount.json",
            "--json",
        ],
    );
    let rows: Vec<Value> = serde_json::from_str(&json).expect("JSON");
    let row = |name: &str| {
        rows.iter()
            .find(|row| row["strategy"] == name)
            .unwrap_or_else(|| panic!("no {name} in {json}"))
    };
    // Integers decide all of it, so that each machine prints the same. Another program counted
    // 120.290 and 143.3 GB for the original with popularity of any version and with none.
    let expected = [
        ("one layer per path", "95.171", 97_051),
        ("plan", "97.062", 39_446),
        ("size", "101.116", 48_311),
        ("dominator, popularity of any version", "120.290", 39_136),
        ("dominator, popularity of exact names", "129.063", 38_727),
        ("dominator, no popularity", "142.910", 37_621),
        ("one layer", "224.529", 2_400),
    ];
    assert_eq!(rows.len(), expected.len(), "{json}");
    for (name, moved, fetched) in expected {
        let layers = row(name)["layersFetched"].as_u64().expect("a number");
        let found = (format!("{:.3}", gb(row(name))), layers);
        assert_eq!(found, (moved.to_owned(), fetched), "{name}");
    }
}
