//! The layer strategies as flags of `nixery build`, and cluster plans of the demo set.

use crate::command::run;
use crate::{demo_set, program};
use std::path::{Path, PathBuf};
use std::process::Command;

/// All of them.
pub const STRATEGIES: [&str; 3] = ["size", "dominator", "plan"];

/// What plans are made from here: not all that the tests' images hold, so that some packages are
/// unknown to them.
const PLANNED: &str = "bashInteractive,bc,coreutils,curl,diffutils,file,findutils,gawk,git,gnugrep,gnused,hello,htop,jq,\
                       less,nano,nginx,openssl,perl,procps,rsync,sqlite,vim,wget,xz,zstd";

/// The flags of `nixery build` that choose the strategy; the plan of `plan` is made in the folder.
///
/// # Panics
/// The plan cannot be made.
#[track_caller]
pub fn flags(strategy: &str, folder: &Path) -> Vec<String> {
    let mut flags = vec!["--layer-strategy".to_owned(), strategy.to_owned()];
    if strategy == "plan" {
        let plan = plan(folder);
        flags.extend(["--layer-plan".to_owned(), plan.display().to_string()]);
    }
    flags
}

/// A cluster plan of most of the demo set, made in the folder.
///
/// # Panics
/// It cannot be made.
#[track_caller]
pub fn plan(folder: &Path) -> PathBuf {
    let plan = folder.join("demo.nixery");
    make_plan(&demo_set(), PLANNED, &plan);
    plan
}

/// `nixery lab plan build --attrs` of a package set.
///
/// # Panics
/// It fails.
#[track_caller]
pub fn make_plan(set: &Path, attributes: &str, plan: &Path) {
    make_plan_with(set, attributes, &[], plan);
}

/// The same with more flags.
///
/// # Panics
/// It fails.
#[track_caller]
pub fn make_plan_with(set: &Path, attributes: &str, flags: &[&str], plan: &Path) {
    run(Command::new(program("nixery"))
        .args(["lab", "plan", "build", "--quiet", "--attrs", attributes])
        .args(flags)
        .arg("--pkgs-path")
        .arg(set)
        .arg("--out")
        .arg(plan))
    .success();
}
