# Loads the package set of a package source.
#
#   srcType   srcArgs
#   nixpkgs   a channel ("nixos-26.05") or a commit of nixpkgs (40 hex digits)
#   git       JSON: {"url": …} with "rev" (40 hex digits), "ref" (a branch), or neither for the default branch;
#             "description" is for messages, if the URL is not that of the repository
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

  git = builtins.fromJSON srcArgs;

  # Nix before 2.20 fetches one branch, "master" unless one is named, and looks for the commit there: it needs every
  # ref to find a commit of another branch. Later ones ask the server for its default branch and for the commit
  # itself, and need not fetch the history.
  # A mirror (with a description) is read where it is, and has no more history than its repository.
  fetchesCommits = builtins.compareVersions builtins.nixVersion "2.20" >= 0;

  fetched = {
    nixpkgs = builtins.fetchTarball "https://github.com/NixOS/nixpkgs/archive/${srcArgs}.tar.gz";

    git = builtins.fetchGit (
      {
        inherit (git) url;
        name = "package-set";
      }
      // (if git ? rev then { inherit (git) rev; } else { })
      // (if git ? ref then { inherit (git) ref; } else { })
      // (
        if fetchesCommits || git ? description then { shallow = true; }
        else if git ? rev then { allRefs = true; }
        else { ref = git.ref or "HEAD"; }
      )
    );

    path =
      if builtins.substring 0 1 srcArgs != "/" then
        throw "the path '${srcArgs}' of the package set is not absolute. Fix: write it from / on"
      else
        /. + srcArgs;
  };

  description =
    if srcType == "git" && git ? description then
      git.description
    else if srcType == "git" then
      "git repository ${git.url}"
      + (if git ? rev then ", commit ${git.rev}" else if git ? ref then ", branch ${git.ref}" else "")
    else if srcType == "path" then
      "path ${srcArgs}"
    else
      "${srcType} ${srcArgs}";
in
if !(fetched ? ${srcType}) then
  throw "unknown kind of package source '${srcType}'. Fix: use one of ${quoted (builtins.attrNames fetched)}"
else
  builtins.addErrorContext "while loading the package set (${description})" (load fetched.${srcType})
