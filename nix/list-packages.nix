# Reports what attributes of a package set are, so that all its packages can be found in parts.
#
#   nix-instantiate --eval --json --strict --read-write-mode list-packages.nix --argstr request JSON
#
# Request:  { "srcType", "srcArgs", "system", "attributes": [[names]] }, the first three as in load-pkgs.nix. An
#           attribute is the list of names that lead to it; [] is the package set itself.
# Answer:   for each attribute, in order, one of
#             { "package": { "drvPath", "outputName", "storePath" } }   instantiated
#             { "names": [names] }    a set to look into: the package set, and those that have
#                                     `recurseForDerivations`, as for nix-env
#             { "fails": true }       it throws, or an assertion fails: broken, unfree, for other systems
#             { }                     anything else
#
# Errors that Nix cannot catch (infinite recursion, a missing attribute, import-from-derivation) fail the whole
# request. The caller then asks for fewer attributes.
{ request }:

let
  inherit (builtins)
    attrNames
    deepSeq
    foldl'
    fromJSON
    isAttrs
    seq
    tryEval
    ;

  inherit (fromJSON request) srcType srcArgs system attributes;

  pkgs = import ./load-pkgs.nix { inherit srcType srcArgs system; };

  look = attribute:
    let
      value = foldl' (set: name: set.${name}) pkgs attribute;
      answer =
        if !isAttrs value then { }
        else if (value.type or null) == "derivation" then {
          package = {
            inherit (value) drvPath;
            storePath = value.outPath;
            outputName = value.outputName or "out";
          };
        }
        else if attribute == [ ] || (value.recurseForDerivations or false) == true then { names = attrNames value; }
        else { };
      tried = tryEval (deepSeq answer answer);
    in
    if tried.success then tried.value else { fails = true; };
in
# An error in the package set itself is not one of its attributes.
seq pkgs (map look attributes)
