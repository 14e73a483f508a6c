# packages.nix in one regular form, for scripts/demo-set to read as JSON:
#   { tree     attribute → package, or a nested set of them
#     units    package → { debs, name, uses, setup, shared }
#     foreign  attributes }
let
  given = import ./packages.nix;

  unit = definition:
    let full = if builtins.isString definition then { debs = [ definition ]; } else definition;
    in { name = builtins.head full.debs; uses = [ ]; setup = ""; } // full;

  # A package is known by its first Debian package.
  id = definition: builtins.head (unit definition).debs;

  isPackage = value: builtins.isString value || value ? debs;

  tree = builtins.mapAttrs (_: value: if isPackage value then id value else tree value);

  leaves = set: builtins.concatLists (map (value: if isPackage value then [ value ] else leaves value) (builtins.attrValues set));
in
{
  tree = tree given.packages;
  units = builtins.listToAttrs (
    map (definition: { name = id definition; value = unit definition // { shared = false; }; }) (leaves given.packages)
    ++ map (definition: { name = id definition; value = unit definition // { shared = true; }; }) (leaves given.shared)
  );
  inherit (given) foreign;
}
