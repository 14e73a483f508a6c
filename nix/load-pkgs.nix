# Loads the package set of a package source.
#
#   srcType   srcArgs
#   fetched   JSON: {"path": …} with the absolute path of what fetch-source.nix has fetched; "description" is for messages
#   path      an absolute path of a directory with a default.nix, or of a .nix file
#
# Returns an attribute set of packages for `system`. Every argument is data: nothing is inserted into Nix code.
{ srcType, srcArgs, system }:

let
  # The arguments that a package set may take. `config` and `overlays` are given so that nixpkgs does not read
  # ~/.config/nixpkgs or $NIXPKGS_CONFIG: an image must not depend on the user of the server.
  offered = {
    inherit system;
    config = { };
    overlays = [ ];
  };

  quoted = names: builtins.concatStringsSep ", " (map (name: "'${name}'") names);

  # `{ }: …` takes no argument at all, `args: …` and `{ ... }: …` take any; functionArgs is empty for all of
  # them, and only the XML form distinguishes them.
  refusesArguments = set: builtins.match ".*<attrspat>[[:space:]]*</attrspat>.*" (builtins.toXML set) != null;

  call = set:
    let
      takes = builtins.functionArgs set;
      missing = builtins.filter (name: !takes.${name} && !(offered ? ${name})) (builtins.attrNames takes);
    in
    if missing != [ ] then
      throw "the package set (${description}) is a function that requires ${quoted missing}, but Nixery passes only ${quoted (builtins.attrNames offered)}. Fix: give each other argument a default"
    else if takes == { } then
      set (if refusesArguments set then { } else offered)
    else
      set (builtins.intersectAttrs takes offered);

  check = set:
    if !builtins.isAttrs set then
      throw "the package set (${description}) is not an attribute set but of type ${builtins.typeOf set}. Fix: make it return an attribute set of packages"
    else if (set.type or null) == "derivation" then
      throw "the package set (${description}) is a single derivation, not a set of packages. Fix: make it return an attribute set that has the derivation"
    else
      set;

  load = source:
    let
      isFile = builtins.match ".*\\.nix" (toString source) != null;
      imported =
        if !builtins.pathExists source then
          throw "the package set (${description}) does not exist"
        else if !isFile && !builtins.pathExists (source + "/default.nix") then
          throw (
            if builtins.pathExists (source + "/flake.nix") then
              "the package set (${description}) has a flake.nix but no default.nix. Fix: add a default.nix that returns an attribute set of packages"
            else
              "the package set (${description}) has no default.nix. Fix: add one that returns an attribute set of packages"
          )
        else
          import source;
    in
    check (if builtins.isFunction imported then call imported else imported);

  fetched = builtins.fromJSON srcArgs;

  sources = {
    fetched = /. + fetched.path;

    path =
      if builtins.substring 0 1 srcArgs != "/" then
        throw "the path '${srcArgs}' of the package set is not absolute. Fix: write it from / on"
      else
        /. + srcArgs;
  };

  description = if srcType == "fetched" then fetched.description else "${srcType} ${srcArgs}";
in
if !(sources ? ${srcType}) then
  throw "unknown kind of package source '${srcType}'. Fix: use one of ${quoted (builtins.attrNames sources)}"
else
  builtins.addErrorContext "while loading the package set (${description})" (load sources.${srcType})
