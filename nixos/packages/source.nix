# The Cargo workspace's files and nothing else, so that a changed README rebuilds nothing.
{ lib }:
lib.fileset.toSource {
  root = ../..;
  fileset = lib.fileset.unions [
    ../../Cargo.toml
    ../../Cargo.lock
    ../../clippy.toml
    ../../deny.toml
    ../../rustfmt.toml
    ../../src
    # The devices of `tidegate demo`: not the boards, whose changes rebuild nothing here.
    ../../firmware/Cargo.toml
    ../../firmware/app
    ../../firmware/host
    ../../certs
    ../../tests
    ../../nixos/box
  ];
}
