# Finds the packages of an image in a package set and instantiates them.
#
#   nix-instantiate --eval --json --strict --read-write-mode prepare-image.nix --argstr request JSON
#
# Request:  { "srcType", "srcArgs", "system", "packages": [names] }, the first three as in load-pkgs.nix.
# Answer:   { "found":         [{ "name", "attribute", "drvPath", "outputName", "storePath", "version" }],
#             "notFound":      [names],
#             "notDerivation": [{ "name", "type" }] }
# (not "outPath": Nix prints a set with an attribute of that name as the path alone)
# "version" is empty if neither the attribute `version` nor the name of the package has one.
#
# `found` is empty unless every package is found and is a derivation, so a request that cannot succeed
# instantiates nothing. An error inside a package carries the context "while evaluating the package 'NAME'".
# Nothing is built here: the caller forbids import-from-derivation.
{ request }:

let
  inherit (builtins)
    addErrorContext
    attrNames
    concatStringsSep
    deepSeq
    elemAt
    filter
    foldl'
    fromJSON
    isAttrs
    isString
    length
    listToAttrs
    match
    parseDrvName
    replaceStrings
    split
    tryEval
    typeOf
    unsafeDiscardStringContext
    ;

  inherit (fromJSON request) srcType srcArgs system packages;

  pkgs = import ./load-pkgs.nix { inherit srcType srcArgs system; };

  capitals = filter (s: isString s && s != "") (split "" "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
  smalls = filter (s: isString s && s != "") (split "" "abcdefghijklmnopqrstuvwxyz");
  lower = replaceStrings capitals smalls;

  # Lower-case spelling → attribute. Attribute names come sorted and listToAttrs keeps the first of equal
  # names, so of several attributes that differ in case alone the first in byte order is taken, always.
  bySpelling = set: listToAttrs (map (name: { name = lower name; value = name; }) (attrNames set));

  # The whole package set is large, and looked up for each package: share its table.
  packageSpelling = bySpelling pkgs;

  # The attribute of `set` that `part` of a package's name means, or null. Registry names cannot start with
  # `_` or have capitals, attributes cannot start with a digit.
  resolve = spelling: set: part:
    let
      spellings = (if match "[0-9].*" part != null then [ "_${part}" ] else [ ]) ++ [ part ];
      exact = filter (name: set ? ${name}) spellings;
      folded = filter (name: spelling ? ${name}) (map lower spellings);
    in
    if exact != [ ] then elemAt exact 0
    else if folded != [ ] then spelling.${elemAt folded 0}
    else null;

  # Follows a dotted name down the nested sets: { attribute, value }, or null if it leads nowhere.
  find = name:
    foldl'
      (at: part:
        if at == null || !isAttrs at.value then null
        else
          let
            attribute = resolve (if at.path == [ ] then packageSpelling else bySpelling at.value) at.value part;
          in
          if attribute == null then null
          else {
            path = at.path ++ [ attribute ];
            value = at.value.${attribute};
          })
      { path = [ ]; value = pkgs; }
      (filter isString (split "\\." name));

  # addErrorContext covers what is evaluated inside it only, hence the deepSeq.
  inPackage = name: value:
    addErrorContext "while evaluating the package '${name}'" (deepSeq value value);

  # Forces the set before any package, so that an error in it is not attributed to one.
  candidates = builtins.seq pkgs (map
    (name: rec {
      inherit name;
      hit = find name;
      exists = inPackage name (hit != null);
      isDerivation = inPackage name (isAttrs hit.value && (hit.value.type or null) == "derivation");
      kind = kinds.${typeOf hit.value};
    })
    packages);

  kinds = {
    bool = "a Boolean";
    float = "a number";
    int = "a number";
    lambda = "a function";
    list = "a list";
    null = "null";
    path = "a path";
    set = "a set";
    string = "a string";
  };

  missing = filter (candidate: !candidate.exists) candidates;
  # Not evaluated if packages are missing: their names are the answer even if another package is broken.
  unbuildable = if missing != [ ] then [ ] else filter (candidate: !candidate.isDerivation) candidates;

  # The version of a package: what it says, else the version in its name.
  versionOf = package:
    let
      said = tryEval (package.version or null);
      name = package.name or null;
    in
    if said.success && isString said.value then unsafeDiscardStringContext said.value
    else if isString name then (parseDrvName (unsafeDiscardStringContext name)).version
    else "";

  instantiate = { name, hit, ... }: inPackage name {
    inherit name;
    attribute = concatStringsSep "." hit.path;
    inherit (hit.value) drvPath;
    storePath = hit.value.outPath;
    outputName = hit.value.outputName or "out";
    version = versionOf hit.value;
  };
in
{
  found = if missing == [ ] && unbuildable == [ ] then map instantiate candidates else [ ];
  notFound = map (candidate: candidate.name) missing;
  notDerivation = map (candidate: { inherit (candidate) name; type = candidate.kind; }) unbuildable;
}
