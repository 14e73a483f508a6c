//! The memory of building an image with a file of 2 GB.

use std::fs;
use std::process::Command;

use crate::builds::Build;
use crate::processes::run;
use crate::setup::Setup;
use crate::{Result, Verdicts, megabytes, seconds};

/// A program and a hole after it, again and again: 2 GB that are cheap to make. `base` names the
/// demo set.
const PACKAGES: &str = r#"
{ ... }@arguments:
let
  demo = import (/. + builtins.readFile ./base) arguments;
in
demo // {
  bench-large-file = derivation {
    name = "bench-large-file-1.0";
    system = builtins.currentSystem;
    builder = "${demo.bashInteractive}/bin/bash";
    args = [ "-euc" ''
      mkdir -p $out/share
      for turn in $(seq 1 250); do
        cat ${demo.bashInteractive}/bin/bash >> $out/share/large
        truncate -s $((turn * 8000000)) $out/share/large
      done
      :
    '' ];
    PATH = "${demo.coreutils}/bin";
    preferLocalBuild = true;
    allowSubstitutes = false;
  };
}
"#;
/// How the package's store path ends.
const NAME: &str = "-bench-large-file-1.0";

/// Most kB that it may take more than `hello`.
const MORE: u64 = 80_000;

/// Builds it once. `hello` is the peak of memory of that image, in kB.
pub(crate) fn compare(setup: &Setup, hello: u64, verdicts: &mut Verdicts) -> Result<()> {
    let packages = setup.folder()?;
    fs::write(packages.path().join("default.nix"), PACKAGES)?;
    let base = setup.packages.to_str().ok_or("the set's path is no text")?;
    fs::write(packages.path().join("base"), base)?;
    let folder = setup.folder()?;
    let build = Build::run(setup, packages.path(), "bench-large-file", folder.path());
    let build = build?;
    let layers = build.layers()?;
    let path = layers
        .iter()
        .flatten()
        .find(|path| path.as_str().ends_with(NAME))
        .ok_or("the large file is in no layer")?;
    // It fails where somebody else has come to need it: then it stays.
    if let Err(error) = run(Command::new("nix-store").args(["--delete", path.as_str()])) {
        println!("{path} stays in the Nix store: {error}");
    }
    let more = build.ended.peak.saturating_sub(hello);
    println!(
        "\na file of 2 GB: built and packed in {} s, at most {} MB of memory; hello: {} MB",
        seconds(build.ended.wall),
        megabytes(build.ended.peak),
        megabytes(hello)
    );
    verdicts.say(
        more <= MORE,
        format!(
            "memory for an image with a file of 2 GB: {} MB over that of hello, at most {} wanted",
            megabytes(more),
            megabytes(MORE)
        ),
    );
    Ok(())
}
