# Updates of the box itself, pulled from a flake at night. (Pushed ones are `nix run .#deploy`.)
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  inherit (config.services.tidegate) appliance;
  cfg = appliance.selfUpdate;
in
{
  options.services.tidegate.appliance.selfUpdate = {
    flake = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "github:example/our-gateway";
      description = "The flake to update from, whose `nixosConfigurations` has this host's name. Null: only when somebody does it.";
    };
    dates = mkOption {
      type = types.str;
      default = "Sun 03:30";
      description = "When, as in {manpage}`systemd.time(7)`.";
    };
  };

  config = lib.mkIf (appliance.enable && cfg.flake != null) {
    assertions = [
      {
        assertion = appliance.health.enable;
        message = "services.tidegate.appliance.selfUpdate without health.enable would leave a box that updated into trouble in trouble. Set health.enable = true.";
      }
    ];
    system.autoUpgrade = {
      enable = true;
      inherit (cfg) flake dates;
      flags = [ "--no-write-lock-file" ];
      randomizedDelaySec = "1h";
      persistent = true;
      allowReboot = false;
    };
  };
}
