# A hand-made package set for the tests of prepare-image.nix: each attribute is one case of a look-up.
{ system, config ? { }, ... }:
let
  package = name: derivation {
    inherit name system;
    builder = "/bin/sh";
    args = [ "-c" "echo ${name} > $out" ];
  };
in
rec {
  hello = package "hello-1.0";
  bashInteractive = package "bash-1.0";
  _7zz = package "7zz-1.0";
  _2048-game = package "2048-1.0";
  twoOutputs = derivation {
    name = "two-1.0";
    inherit system;
    outputs = [ "bin" "dev" ];
    builder = "/bin/sh";
    args = [ "-c" "echo > $bin; echo > $dev" ];
  };
  haskellPackages = {
    ShellCheck = package "ShellCheck-1.0";
    "3d-tool" = package "3d-tool-1.0";
    nested.deeper.Thing = package "thing-1.0";
  };
  # Differ in case alone: the first in byte order is meant by any spelling that is neither of them.
  Twin = package "twin-upper";
  tWin = package "twin-mixed";
  # Shares its spelling with an attribute that is written as asked for.
  exact = package "exact-lower";
  Exact = package "exact-upper";

  # What says its version, and what does not.
  saysVersion = package "says-1.0" // { version = "2.0-beta"; };
  throwsVersion = package "throws-1.0" // { version = throw "no version"; };
  numberVersion = package "number-1.0" // { version = 2; };
  pathVersion = package "path-1.0" // { version = "${hello}"; };
  noVersion = package "none";

  aFunction = x: x;
  aSet = { inherit hello; };
  aString = "text";
  aPath = ./default.nix;
  aList = [ hello ];
  aNumber = 1;
  aBoolean = true;
  aNull = null;

  thrown = throw "thrown has been renamed to hello";
  lateThrow = hello // { drvPath = throw "late-throw is not supported on ${system}"; };
  failedAssert = assert 1 == 2; hello;
  recursion = recursion // { };
  thrownSet.inner = throw "inner is broken";
  missingAttribute = hello.nothingOfThatName;
  usesConfig = package "config-${toString (builtins.attrNames config)}x";
}
