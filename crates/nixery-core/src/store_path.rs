//! Nix store paths and NAR hashes.
