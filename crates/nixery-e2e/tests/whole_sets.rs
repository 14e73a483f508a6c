//! `nixery lab plan build --all`: every package of a package set that evaluates and builds.

use nixery_e2e::command::{Ran, run};
use nixery_e2e::{demo_set, layering, program};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// One of six hundred names of `hello`: together more than Linux takes as one argument of a
/// program.
fn also_hello(n: impl std::fmt::Display) -> String {
    format!("hello-{n}-{}", "x".repeat(250))
}

/// Packages of the demo set, at the top and below, among much that is none.
fn odd_set(folder: &Path) {
    let code = format!(
        r#"{{ system ? builtins.currentSystem, ... }}:
let
  demo = import {demo} {{ inherit system; }};
  run = name: script: derivation {{
    inherit name system;
    builder = "${{demo.bashInteractive}}/bin/bash";
    args = [ "-euc" script ];
  }};
in
{{
  inherit (demo) cacert hello iana-etc jq;
  also-hello = demo.hello;
  below = {{
    recurseForDerivations = true;
    "with.dot" = demo.htop;
    deeper = {{ recurseForDerivations = true; inherit (demo) bc; throws = throw "on purpose"; }};
  }};
  not-looked-into = {{ inherit (demo) git; }};
  a-function = argument: argument;
  a-string = "text";

  throws = throw "on purpose";
  throws-late = demo.hello // {{ drvPath = throw "on purpose"; }};
  asserts = assert 1 == 2; demo.hello;
  recursion = let self = self // {{ }}; in self;
  no-attribute = demo.hello.nothingOfThatName;
  imports = import (run "code" "echo 1 > $out");
  itself = let self = {{ recurseForDerivations = true; inherit self; }}; in self;
  fails = run "fails-1.0" "exit 1";
  needs-fails = run "needs-fails-1.0" "echo ${{run "fails-1.0" "exit 1"}} > $out";
}}
# More than one request asks for, and packages by other names.
// builtins.listToAttrs (builtins.genList (n: {{ name = "{hello_n}"; value = demo.hello; }}) 600)
"#,
        demo = demo_set().display(),
        hello_n = also_hello("${toString n}"),
    );
    std::fs::write(folder.join("default.nix"), code).expect("a new file");
}

fn plan_of_all(set: &Path, plan: &Path) -> Ran {
    run(Command::new(program("nixery"))
        .args([
            "lab",
            "plan",
            "build",
            "--all",
            "--revision",
            "a test",
            "--json",
        ])
        .arg("--pkgs-path")
        .arg(set)
        .arg("--out")
        .arg(plan))
}

#[test]
#[ignore = "needs Nix: run make test"]
fn what_is_no_package_is_left_out_and_told() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    odd_set(folder.path());
    let plan = folder.path().join("all.nixery");
    let ran = plan_of_all(folder.path(), &plan);
    let said = ran.stderr.clone();
    ran.success();
    let mut left_out: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("left out: "))
        .collect();
    left_out.sort_unstable();
    assert_eq!(
        left_out,
        [
            "asserts does not evaluate",
            "below.deeper.throws does not evaluate",
            "fails does not build",
            "imports does not evaluate",
            "itself.self.self.self.self.self.self.self is nested too deeply",
            "needs-fails does not build",
            "no-attribute does not evaluate",
            "recursion does not evaluate",
            "throws does not evaluate",
            "throws-late does not evaluate",
        ]
    );
    assert!(said.contains("6 packages built, 10 left out"), "{said}");
    assert!(said.contains("6 samples of 6 packages"), "{said}");

    // The same packages by name: the same plan.
    let named = folder.path().join("named.nixery");
    let flags = ["--revision", "a test"];
    layering::make_plan_with(&demo_set(), "bc,hello,htop,jq", &flags, &named);
    let bytes = |plan: &Path| std::fs::read(plan).expect("a plan");
    assert_eq!(bytes(&plan), bytes(&named));
}

#[test]
#[ignore = "needs Nix: run make test"]
fn many_named_packages_are_asked_for_in_parts() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    odd_set(folder.path());
    let hellos = (0..600).map(|n| also_hello(n) + "\n");
    let names = hellos.chain(["jq\n".to_owned()]).collect::<String>();
    assert!(names.len() > 128 << 10);
    let list = folder.path().join("names");
    std::fs::write(&list, names).expect("a new file");
    let list = list.display().to_string();
    let flags = ["--revision", "a test"];
    let [many, few] = ["many", "few"].map(|name| folder.path().join(name));
    let of_list = [&flags[..], &["--attrs-file", &list]].concat();
    layering::make_plan_with(folder.path(), "jq", &of_list, &many);
    layering::make_plan_with(&demo_set(), "hello,jq", &flags, &few);
    let bytes = |plan: &Path| std::fs::read(plan).expect("a plan");
    assert_eq!(bytes(&many), bytes(&few));
}

#[test]
#[ignore = "needs Nix: run make test"]
fn all_of_the_demo_set_makes_the_same_plan_again() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let plans = ["a", "b"].map(|name| {
        let plan = folder.path().join(name);
        let ran = plan_of_all(&demo_set(), &plan);
        assert!(!ran.stderr.contains("left out: "), "{}", ran.stderr);
        let summary: Value = serde_json::from_str(&ran.success()).expect("JSON");
        // A package each; more names, as they need libraries.
        assert!(summary["samples"].as_u64() > Some(40), "{summary}");
        assert!(
            summary["names"].as_u64() > summary["samples"].as_u64(),
            "{summary}"
        );
        std::fs::read(plan).expect("a plan")
    });
    assert_eq!(plans[0], plans[1]);
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_set_that_does_not_load_is_an_error() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let plan = folder.path().join("plan");
    std::fs::write(folder.path().join("default.nix"), "{ a = ; }").expect("a new file");
    let said = plan_of_all(folder.path(), &plan).failure();
    assert!(
        said.contains("error: the Nix code of the package set does not evaluate"),
        "{said}"
    );
    assert!(!plan.exists());
}
