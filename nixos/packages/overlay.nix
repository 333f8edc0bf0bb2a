# Everything of ours as packages. The firmware's attributes need rust-overlay as well, and are only
# evaluated by who asks for them.
final: _prev: {
  tidegate = final.callPackage ./tidegate.nix { };
  tidegate-box = final.callPackage ./box.nix { };
  esp-toolchain = final.callPackage ./esp-toolchain.nix { };
  tidegate-firmware-esp32 = final.callPackage ./firmware.nix { chip = "esp32"; };
  tidegate-firmware-esp32c3 = final.callPackage ./firmware.nix { chip = "esp32c3"; };
  tidegate-firmware-esp32c6 = final.callPackage ./firmware.nix { chip = "esp32c6"; };
  tidegate-firmware-esp32s3 = final.callPackage ./firmware.nix { chip = "esp32s3"; };
}
