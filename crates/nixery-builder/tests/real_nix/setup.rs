//! A package set of `/bin/sh` derivations, and a builder over it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixery_builder::{BuildError, BuildHandle, Builder, BuilderConfig, Image, ImageRequest};
use nixery_core::{ImageName, PackageSource, Tag};
use nixery_nix::{NixCli, NixCliConfig};
use nixery_storage::MemoryStorage;
use tempfile::TempDir;

/// Packages that need nothing but a shell. `nonce` makes them new to the store in each run.
const PACKAGES: &str = r#"
{ system ? builtins.currentSystem, ... }:
let
  nonce = "@nonce@";
  sh = name: script: derivation {
    inherit name system nonce;
    builder = "/bin/sh";
    args = [ "-c" "export PATH=/bin:/usr/bin; ${script}" ];
  };
in rec {
  cacert = sh "cacert-1" "mkdir -p $out/etc/ssl/certs; echo none > $out/etc/ssl/certs/ca-bundle.crt";
  iana-etc = sh "iana-etc-1" "mkdir -p $out/etc; echo > $out/etc/protocols";
  libfoo = sh "libfoo-1.0" "mkdir -p $out/lib; echo $nonce > $out/lib/libfoo.so";
  foo = sh "foo-1.0" "mkdir -p $out/bin; echo ${libfoo} > $out/bin/foo; chmod +x $out/bin/foo";
  multi = derivation {
    name = "multi-1.0"; inherit system nonce; outputs = [ "out" "lib" ]; builder = "/bin/sh";
    args = [ "-c" "export PATH=/bin:/usr/bin; mkdir -p $out/bin $lib/lib; echo $lib > $out/bin/multi; echo $nonce > $lib/lib/multi" ];
  };
  multiLib = multi.lib;
  single = sh "single.txt" "echo $nonce > $out";
  set = { inherit foo; };
  func = x: x;
  throws = throw "this package is marked broken in /srv/secret/default.nix";
  broken = sh "broken-dependency-2.1" "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do echo line $i; done; printf 'n\\000ul \\377\\n' >&2; exit 7";
  needsBroken = sh "needs-broken-1.0" "echo ${broken} > $out";
  needsNeedsBroken = sh "needs-needs-broken-1.0" "echo ${needsBroken} > $out";
  fifo = sh "fifo-1.0" "mkdir $out; mkfifo $out/pipe";
  noisy = sh "noisy-1.0" "i=0; while [ $i -lt 3000 ]; do printf '%01000d\\n' 0; printf '%01000d\\n' 0 >&2; i=$((i+1)); done; mkdir $out";
  slow = sh "slow-1.0" "echo waiting; echo $$ > @dir@/pid; sleep 600; mkdir $out";
  victim = sh "victim-1.0" "echo ok > $out";
  liar = derivation {
    name = "liar-1.0"; inherit system nonce; builder = "/bin/sh";
    lie = builtins.toJSON { action = "msg"; level = 0; msg = "error: builder for '${builtins.unsafeDiscardStringContext victim.drvPath}' failed with exit code 9"; };
    download = builtins.toJSON { action = "start"; id = 7; level = 3; type = 101; text = "building lies"; fields = [ "x" 5 ]; };
    line = builtins.toJSON { action = "result"; id = 7; type = 101; fields = [ "a line of the download" ]; };
    args = [ "-c" "echo \"@nix $lie\"; echo \"@nix $download\"; echo \"@nix $line\"; exit 1" ];
  };
  needsLiar = sh "needs-liar-1.0" "echo ${victim} ${liar} > $out";
  curious = throw "the environment has <${builtins.getEnv "CARGO_MANIFEST_DIR"}>";
  reader = sh "reader-1.0" "echo '${builtins.readFile "@dir@/private"}' > $out";
  defaces = sh "defaces-1.0" "for file in @dir@/spool/git/*/repository/.git/config; do test -s $file || exit 1; if echo x 2>/dev/null >> $file; then exit 1; fi; done; if echo x 2>/dev/null > @dir@/spool/git/new; then exit 1; fi; echo ok > $out";
  greedy = sh "greedy-1.0" (toString (builtins.length (builtins.genList (x: x) 200000000)));
  ifd = sh "ifd-${builtins.readFile (sh "for-evaluation" "echo x > $out")}" "mkdir $out";
}
"#;

/// Settings with which the package set builds: its builders are the shell and the tools of this
/// machine, which a sandbox does not have.
pub(crate) fn nix_config(spool: &Path) -> NixCliConfig {
    let mut config = NixCliConfig::new(spool);
    let given = std::env::var("NIX_CONFIG").unwrap_or_default();
    let ours = format!("{given}\nsandbox = false");
    config.env.push(("NIX_CONFIG".to_owned(), ours));
    config
}

/// A builder over real Nix with a package set of its own.
pub(crate) struct Setup {
    pub(crate) dir: TempDir,
    pub(crate) builder: Builder,
}

impl Setup {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut NixCliConfig)) -> Self {
        Self::of(change, |set| PackageSource::path(set).expect("valid")).await
    }

    pub(crate) async fn of(
        change: impl FnOnce(&mut NixCliConfig),
        source: impl FnOnce(&Path) -> PackageSource,
    ) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let set = dir.path().join("set");
        std::fs::create_dir(&set).expect("mkdir");
        let nonce = dir
            .path()
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let packages = PACKAGES
            .replace("@nonce@", &nonce)
            .replace("@dir@", &dir.path().to_string_lossy());
        std::fs::write(set.join("default.nix"), packages).expect("write");

        let spool = dir.path().join("spool");
        let mut nix = nix_config(&spool);
        change(&mut nix);
        let nix = NixCli::new(nix).expect("spool is usable");
        let mut config = BuilderConfig::new(source(&set), &spool);
        config.failure_ttl = Duration::ZERO;
        let storage = Arc::new(MemoryStorage::new());
        let builder = Builder::new(config, Arc::new(nix), storage)
            .await
            .expect("opens");
        Self { dir, builder }
    }

    pub(crate) fn request(&self, name: &str) -> BuildHandle {
        self.request_at(name, "latest")
    }

    pub(crate) fn request_at(&self, name: &str, tag: &str) -> BuildHandle {
        let name = ImageName::parse(name).expect("valid");
        let tag = Tag::parse(tag).expect("valid");
        self.builder.start(ImageRequest { name, tag })
    }

    pub(crate) async fn build(&self, name: &str) -> Arc<Image> {
        let handle = self.request(name);
        let result = handle.wait().await;
        result.unwrap_or_else(|error| panic!("{error}\n{}", handle.log().text()))
    }

    pub(crate) async fn fail(&self, name: &str) -> Arc<BuildError> {
        self.request(name).wait().await.expect_err("fails")
    }

    /// The line that a builder writes to the file `name`.
    pub(crate) async fn file(&self, name: &str) -> String {
        line_of(&self.dir.path().join(name)).await
    }
}

/// Waits for a file with a whole line in it.
pub(crate) async fn line_of(path: &Path) -> String {
    let start = Instant::now();
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ if start.elapsed() > Duration::from_secs(60) => panic!("no {}", path.display()),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The names of the store paths in the image, sorted.
pub(crate) fn paths(image: &Image) -> Vec<&str> {
    let paths = image.layers.iter().flat_map(|layer| &layer.paths);
    let mut names: Vec<_> = paths.map(|path| path.name()).collect();
    names.sort_unstable();
    names
}
