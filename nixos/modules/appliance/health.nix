# A box that was updated into trouble goes back by itself.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.tidegate) appliance;
  cfg = appliance.health;
in
{
  options.services.tidegate.appliance.health = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to return to the last good system if the gateway is not healthy in time after a switch or a boot.";
    };
    within = mkOption {
      type = types.ints.positive;
      default = 300;
      description = "Seconds the gateway has to become healthy.";
    };
    steady = mkOption {
      type = types.ints.positive;
      default = 30;
      description = "Seconds it must then stay healthy, to count as good.";
    };
  };

  config = lib.mkIf (appliance.enable && cfg.enable) {
    systemd.services.tidegate-health = {
      description = "Keep this system if the gateway is healthy, else return to the last that was";
      wantedBy = [ "multi-user.target" ];
      after = [ "tidegate.service" ];
      # It judges a switch, so the switch must not end it.
      restartIfChanged = false;
      stopIfChanged = false;
      path = [
        config.nix.package
        config.systemd.package
        config.services.tidegate.commandLine
      ];
      serviceConfig = {
        Type = "exec";
        StateDirectory = "tidegate-health";
        ExecStart = "${lib.getExe pkgs.tidegate-box} health --within ${toString cfg.within} --steady ${toString cfg.steady} --good /nix/var/nix/gcroots/tidegate-good --log /var/lib/tidegate-health/returns";
      };
    };
    # Activation is part of every switch, and early in it: the units are not there yet, but a job for
    # this one can wait.
    system.activationScripts.tidegate-health = ''
      case "''${NIXOS_ACTION-}" in
        switch|test) ${config.systemd.package}/bin/systemctl --no-block restart tidegate-health.service || true ;;
      esac
    '';
  };
}
