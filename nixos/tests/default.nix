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
in
lib.listToAttrs (
  map (
    story:
    lib.nameValuePair "vm-${story}" (
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
  ) stories
)
