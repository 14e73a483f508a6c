# The demo package set: packages made from Debian's binary packages, without a network and without nixpkgs.
#
# scripts/demo-set puts this file beside what it reads:
#   set.json   the packages of each system, which Debian packages they are made of, and what they need
#   debs/      those Debian packages
#   seed/      a few programs of Debian (bash, coreutils, tar, dpkg-deb, patchelf …) to unpack and patch with
#
# A package for another system is unpacked and patched, never run, so it builds here like any other.
{ system ? builtins.currentSystem, ... }:

let
  set = builtins.fromJSON (builtins.readFile ./set.json);

  target = set.systems.${system} or (throw
    "the demo package set has no packages for ${system}, only for ${builtins.concatStringsSep " and " (builtins.attrNames set.systems)}");

  # The build tools, patched to run from the store. Nothing of the host is used, so the result depends on the
  # Debian packages alone, and the sandbox may be on.
  seed = builtins.path { name = "demo-seed"; path = ./seed; sha256 = set.seed; };
  tools = derivation {
    name = "demo-tools";
    system = set.builder;
    builder = "${seed}/ld.so";
    args = [ "--library-path" "${seed}/lib" "${seed}/bin/bash" ./build-tools.sh ];
    inherit seed;
  };

  deb = { file, store, sha256 }: builtins.path {
    name = store;
    path = ./debs + "/${file}";
    recursive = false;
    inherit sha256;
  };

  units = builtins.mapAttrs
    (id: unit: derivation {
      inherit id;
      inherit (unit) name setup;
      inherit (target) triple loader;
      system = set.builder;
      builder = "${tools}/bin/bash";
      args = [ ./build-package.sh ];
      debs = map deb unit.debs;
      unitNames = unit.needs;
      unitPaths = map (need: units.${need}) unit.needs;
      PATH = "${tools}/bin";
      preferLocalBuild = true;
      allowSubstitutes = false;
    })
    target.units;

  tree = builtins.mapAttrs (_: value: if builtins.isString value then units.${value} else tree value);
in
tree target.tree
