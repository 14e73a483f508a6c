# Nixery itself as a Nix package, and as a container image:
#
#   nix-build nix -A nixery             result/bin/nixery-server, result/bin/nixery
#   nix-build nix -A image              docker load < result; docker run -p 8080:8080 nixery
#
# It needs a nixpkgs whose Rust is as new as `rust-version` in ../Cargo.toml. The project's tests work without
# nixpkgs: they parse this file and evaluate it against a stand-in of the functions it calls. They do not build it.
{ pkgs ? import <nixpkgs> { } }:

let
  inherit (pkgs) lib;

  workspace = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package;

  # What a running server calls.
  programs = [
    pkgs.nix
    pkgs.git
    # For package sets fetched over ssh.
    pkgs.openssh
  ];
in
rec {
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
        ./load-pkgs.nix
      ];
    };
    cargoLock.lockFile = ../Cargo.lock;
    cargoBuildFlags = [ "--bin" "nixery-server" "--bin" "nixery" ];

    # The tests want Nix, clients and a container runtime; `make test` runs them.
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

  # A server with a Nix store of its own. Layers and manifests are kept in the volume /data.
  image = pkgs.dockerTools.buildLayeredImageWithNixDb {
    name = "nixery";
    tag = workspace.version;
    contents = [
      nixery
      pkgs.bashInteractive
      pkgs.cacert
      pkgs.coreutils
      pkgs.dockerTools.fakeNss
      pkgs.iana-etc
    ]
    # On the path for `docker exec` too.
    ++ programs;
    extraCommands = ''
      mkdir -p -m 1777 tmp
      mkdir -p data root
    '';
    config = {
      Entrypoint = [ "${nixery}/bin/nixery-server" ];
      Env = [
        "HOME=/root"
        "NIX_CONFIG=build-users-group =\nsandbox = false"
        "NIXERY_CHANNEL=nixos-unstable"
        "NIXERY_STORAGE_BACKEND=filesystem"
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
