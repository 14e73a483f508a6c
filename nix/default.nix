# Nixery itself as a Nix package, and as a container image:
#
#   nix-build nix -A nixery             result/bin/nixery-server, result/bin/nixery
#   nix-build nix -A image              docker load < result; docker run -p 8080:8080 nixery:VERSION
#
# It needs a nixpkgs whose Rust is at least `rust-version` of ../Cargo.toml. The tests of the project have no
# nixpkgs: they parse this file and evaluate it with stand-ins for the functions that it calls. They do not build it.
{ pkgs ? import <nixpkgs> { } }:

let
  inherit (pkgs) lib;

  workspace = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package;

  # The programs that a running server calls.
  programs = [
    pkgs.nix
    pkgs.git
    # For package sets fetched over ssh.
    pkgs.openssh
  ];

  nixery = pkgs.rustPlatform.buildRustPackage {
    pname = "nixery";
    inherit (workspace) version;

    src = lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.unions [
        ../Cargo.toml
        ../Cargo.lock
        ../benches
        ../crates
        # Built into the programs.
        ./prepare-image.nix
        ./fetch-source.nix
        ./load-pkgs.nix
        ./list-packages.nix
      ];
    };
    cargoLock.lockFile = ../Cargo.lock;
    cargoBuildFlags = [ "--bin" "nixery-server" "--bin" "nixery" ];

    # The tests need Nix, clients and a container runtime; `make test` runs them.
    doCheck = false;

    nativeBuildInputs = [ pkgs.makeWrapper ];
    postInstall = ''
      for program in nixery-server nixery; do
        wrapProgram $out/bin/$program --prefix PATH : ${lib.makeBinPath programs}
      done
    '';

    meta = {
      description = "Container registry whose image names are the images' contents";
      license = with lib.licenses; [ mit asl20 ];
      mainProgram = "nixery-server";
      platforms = lib.platforms.linux;
    };
  };

  # The user of the server if it is not root: a number alone has no home for git and no name for Nix.
  accounts = pkgs.dockerTools.fakeNss.override {
    extraPasswdLines = [ "nixery:x:1000:1000:Nixery:/data:/bin/false" ];
    extraGroupLines = [ "nixery:x:1000:" ];
  };

  contents = [
    nixery
    accounts
    pkgs.bashInteractive
    pkgs.cacert
    pkgs.coreutils
    pkgs.iana-etc
  ]
  # On the path for `docker exec` too.
  ++ programs;

  # Copies all of this into a volume that is then mounted over /nix: nixery-seed-store DIR.
  seedStore = pkgs.writeShellScriptBin "nixery-seed-store" ''
    export PATH=${lib.makeBinPath [ pkgs.nix pkgs.coreutils ]}
    exec ${pkgs.bashInteractive}/bin/bash ${./seed-store} ${pkgs.closureInfo { rootPaths = contents; }} "$@"
  '';
in
{
  inherit nixery;

  # A server with its own Nix store. Layers and manifests are in the volume /data. It runs as root, or as
  # user 1000 if that user owns the volumes /nix and /data, as in ../deploy/kubernetes.
  image = pkgs.dockerTools.buildLayeredImageWithNixDb {
    name = "nixery";
    tag = workspace.version;
    contents = contents ++ [ seedStore ];
    extraCommands = ''
      mkdir -p -m 1777 tmp
      mkdir -p data root
    '';
    config = {
      Entrypoint = [ "${nixery}/bin/nixery-server" ];
      Env = [
        "HOME=/data"
        "NIX_CONFIG=build-users-group =\nsandbox = false"
        "NIX_SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt"
        "PATH=/bin"
        "PORT=8080"
        "SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt"
        "STORAGE_PATH=/data"
      ];
      ExposedPorts."8080/tcp" = { };
      Volumes."/data" = { };
      Labels."org.opencontainers.image.title" = "Nixery";
    };
  };
}
