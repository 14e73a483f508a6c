# Fetches a package source, and imports nothing of it: it runs without restriction.
#
#   nix-instantiate --eval --json --strict --read-write-mode fetch-source.nix --argstr request JSON
#
# Request:  { "srcType", "srcArgs" }
#   srcType   srcArgs
#   nixpkgs   a channel ("nixos-26.05") or a commit of nixpkgs (40 hex digits)
#   git       JSON: {"url": …} with "rev" (40 hex digits), "ref" (a branch), or neither for the default branch;
#             "description" is for messages, if the URL is not that of the repository
# Answer:   the store path of the files
{ request }:

let
  inherit (builtins.fromJSON request) srcType srcArgs;

  git = builtins.fromJSON srcArgs;

  # Nix before 2.20 fetches one branch, "master" unless one is named, and looks for the commit there: it needs every
  # ref to find a commit of another branch. Later ones ask the server for its default branch and for the commit
  # itself, and need not fetch the history.
  # A mirror (with a description) is read where it is, and has no more history than its repository.
  fetchesCommits = builtins.compareVersions builtins.nixVersion "2.20" >= 0;

  fetched = {
    nixpkgs = builtins.fetchTarball "https://github.com/NixOS/nixpkgs/archive/${srcArgs}.tar.gz";

    git = (builtins.fetchGit (
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
    )).outPath;
  };

  description =
    if srcType != "git" then
      "${srcType} ${srcArgs}"
    else
      git.description or "git repository ${git.url}"
      + (
        if git ? description then ""
        else if git ? rev then ", commit ${git.rev}"
        else if git ? ref then ", branch ${git.ref}"
        else ""
      );
in
if !(fetched ? ${srcType}) then
  throw "unknown kind of package source '${srcType}'. Fix: use one of 'git', 'nixpkgs'"
else
  builtins.addErrorContext "while loading the package set (${description})" fetched.${srcType}
