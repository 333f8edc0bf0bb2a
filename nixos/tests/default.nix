# The VM tests, one file per story.
{
  lib,
  pkgs,
  module,
}:
let
  stories = [
    "backup"
    "commands"
    "curves"
    "device-list"
    "firewall"
    "firmware"
    "first-boot"
    "offline"
    "rejections"
    "revocation"
    "rollback"
    "telemetry"
    "time"
  ];
  machines = import ./machines.nix { inherit lib module pkgs; };
  # What Nix needs to build a derivation, and nothing that remembers how it came about: the machines of
  # a test take a gigabyte or two, and `nix flake check` would hold those of all tests at once. Asked for
  # one thing it finds out everything, after which the machines can be forgotten.
  alone =
    derivation:
    let
      plain = {
        inherit (derivation)
          drvPath
          name
          outPath
          outputName
          outputs
          system
          type
          ;
      };
    in
    builtins.deepSeq plain plain;
in
lib.listToAttrs (
  map (
    story:
    lib.nameValuePair "vm-${story}" (
      alone (
        pkgs.testers.runNixOSTest (
          { ... }:
          {
            imports = [ ./${story}.nix ];
            _module.args = { inherit machines; };
            name = "tidegate-${story}";
            # Whatever hangs is broken: no story takes more than some minutes.
            globalTimeout = 1200;
          }
        )
      )
    )
  ) stories
)
