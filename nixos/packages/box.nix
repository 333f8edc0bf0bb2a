# What the box does for itself: falling back after a bad update, factory reset, writing cards and
# boards. See nixos/box.
{ lib, rustPlatform }:
rustPlatform.buildRustPackage {
  pname = "tidegate-box";
  inherit ((lib.importTOML ../../Cargo.toml).workspace.package) version;
  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../../Cargo.lock;
  cargoBuildFlags = [
    "--package"
    "tidegate-box"
  ];
  cargoTestFlags = [
    "--package"
    "tidegate-box"
  ];
  meta = {
    description = "What a Tidegate box does for itself";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "tidegate-box";
    platforms = lib.platforms.linux;
  };
}
