# The first boot, and the way back to it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.tidegate) appliance;
  cfg = appliance.factoryReset;
  box = lib.getExe pkgs.tidegate-box;
in
{
  options.services.tidegate.appliance.factoryReset.marker = mkOption {
    type = types.str;
    default = "/boot/firmware/tidegate-factory-reset";
    description = ''
      A file whose presence at boot forgets everything: authority, devices' secrets, messages. It
      lies on the partition of the card that any computer can write, so that only somebody who holds
      the card in hand can make it.
    '';
  };

  config = lib.mkIf appliance.enable {
    # Nothing secret is in the image: what a box needs to be itself, it makes here. (The gateway makes
    # its own authority and master key when it first starts.)
    systemd.services.tidegate-first-boot = {
      description = "What this box alone knows";
      wantedBy = [ "multi-user.target" ];
      before = [
        "tidegate.service"
        "hostapd.service"
      ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        StateDirectory = "tidegate-box";
        StateDirectoryMode = "0700";
        UMask = "0077";
        ExecStart = "${box} first-boot --dir /var/lib/tidegate-box";
        PrivateNetwork = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        NoNewPrivileges = true;
        CapabilityBoundingSet = "";
      };
    };

    # What is said on the screen and the serial line goes to whoever stands before the box, and to no
    # log: agetty shows /run/issue.d on each of them.
    systemd.services.tidegate-welcome = {
      description = "Say on the screen how to reach the gateway";
      wantedBy = [ "multi-user.target" ];
      after = [
        "tidegate.service"
        "network-online.target"
      ];
      wants = [
        "tidegate.service"
        "network-online.target"
      ];
      unitConfig.StartLimitIntervalSec = 0;
      path = [ config.services.tidegate.commandLine ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        # A gateway that starts with a delay is no reason to leave the screen dark.
        Restart = "on-failure";
        RestartSec = "5s";
        UMask = "0077";
        ExecStart = lib.concatStringsSep " " (
          [
            box
            "welcome"
            "--issue /run/issue.d/50-tidegate.issue"
            "--host ${config.networking.hostName}.local"
            "--dir /var/lib/tidegate-box"
          ]
          ++ lib.optional (
            config.services.tidegate.settings.api.address != null
          ) "--api-port ${lib.last (lib.splitString ":" config.services.tidegate.settings.api.address)}"
          ++ lib.optional (
            appliance.accessPoint.enable && appliance.accessPoint.passphraseFile == null
          ) "--ssid ${lib.escapeShellArg appliance.accessPoint.ssid}"
        );
        # Screens that are already lit show it too.
        ExecStartPost = "-${config.systemd.package}/bin/systemctl try-restart --no-block getty@tty1.service";
      };
    };
    systemd.tmpfiles.rules = [ "d /run/issue.d 0755 root root - -" ];

    systemd.services.tidegate-factory-reset = {
      description = "Forget everything, because somebody with the card in hand asked for it";
      wantedBy = [ "multi-user.target" ];
      before = [
        "tidegate-first-boot.service"
        "tidegate.service"
        "tidegate-tls.service"
        "hostapd.service"
      ];
      unitConfig.RequiresMountsFor = [
        cfg.marker
        "/var/lib/tidegate"
      ];
      unitConfig.ConditionPathExists = cfg.marker;
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${box} factory-reset --marker ${cfg.marker} /var/lib/tidegate /var/lib/tidegate-box /var/lib/tidegate-releases";
      };
    };
  };
}
