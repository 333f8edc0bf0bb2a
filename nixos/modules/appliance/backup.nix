# Backups: everything the gateway knows, encrypted to somebody else's key before it leaves memory's
# side of the card.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkEnableOption mkOption types;
  ownTypes = import ../tidegate/types.nix { inherit lib; };
  inherit (config.services.tidegate) appliance;
  cfg = appliance.backup;
in
{
  options.services.tidegate.appliance.backup = {
    enable = mkEnableOption "encrypted backups of the gateway's state";
    recipients = mkOption {
      type = types.listOf types.singleLineStr;
      default = [ ];
      example = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
      description = "age (or ssh) public keys of those who can read the backups. Their private keys do not belong on this box.";
    };
    usbLabel = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "TIDEGATE-BACKUP";
      description = "Label of a USB stick's file system to write backups to.";
    };
    ssh = {
      target = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "backup@nas.example.com";
        description = "Where to send backups to over ssh; they are written to files in that account's home.";
      };
      keyFile = mkOption {
        type = types.nullOr ownTypes.secretPath;
        default = null;
        example = "/run/secrets/backup-ssh-key";
        description = "Private key to log in with.";
      };
      hostKey = mkOption {
        type = types.nullOr types.singleLineStr;
        default = null;
        example = "ssh-ed25519 AAAA…";
        description = "The other side's public host key: a backup goes nowhere else.";
      };
    };
    dates = mkOption {
      type = types.str;
      default = "daily";
      description = "When, as in {manpage}`systemd.time(7)`.";
    };
    keep = mkOption {
      type = types.ints.positive;
      default = 14;
      description = "How many backups to keep on the stick.";
    };
  };

  config = lib.mkIf (appliance.enable && cfg.enable) {
    assertions = [
      {
        assertion = cfg.recipients != [ ];
        message = "services.tidegate.appliance.backup.recipients is empty: a backup holds every key of the gateway and is never written in the clear. Make a key pair with `age-keygen` and write its public key here.";
      }
      {
        assertion = (cfg.usbLabel != null) != (cfg.ssh.target != null);
        message = "services.tidegate.appliance.backup goes to one place: set either usbLabel or ssh.target.";
      }
      {
        assertion = cfg.ssh.target == null || (cfg.ssh.keyFile != null && cfg.ssh.hostKey != null);
        message = "services.tidegate.appliance.backup.ssh needs keyFile (to log in) and hostKey (to know whom it talks to; `ssh-keyscan` shows it).";
      }
    ];

    fileSystems = lib.mkIf (cfg.usbLabel != null) {
      "/media/backup" = {
        device = "/dev/disk/by-label/${cfg.usbLabel}";
        fsType = "auto";
        options = [
          "noauto"
          "nofail"
          "x-systemd.automount"
          "x-systemd.idle-timeout=60"
          "x-systemd.device-timeout=10"
          "nodev"
          "nosuid"
          "noexec"
          "sync"
        ];
      };
    };

    systemd.services.tidegate-backup = {
      description = "Back up the gateway's state, encrypted";
      startAt = cfg.dates;
      after = [ "tidegate.service" ];
      path = [
        pkgs.age
        pkgs.openssh
        config.services.tidegate.commandLine
      ];
      serviceConfig = {
        Type = "oneshot";
        StateDirectory = "tidegate-backup";
        StateDirectoryMode = "0700";
        LoadCredential = lib.optional (cfg.ssh.target != null) "ssh-key:${cfg.ssh.keyFile}";
        ExecStart = lib.concatStringsSep " " (
          [
            "${lib.getExe pkgs.tidegate-box} backup"
            "--work /var/lib/tidegate-backup"
            "--recipients ${pkgs.writeText "backup-recipients" (lib.concatLines cfg.recipients)}"
          ]
          ++ (
            if cfg.usbLabel != null then
              [ "--folder /media/backup --keep ${toString cfg.keep}" ]
            else
              [
                "--ssh ${cfg.ssh.target}"
                "--ssh-key \${CREDENTIALS_DIRECTORY}/ssh-key"
                "--known-hosts ${pkgs.writeText "backup-known-hosts" "${lib.last (lib.splitString "@" cfg.ssh.target)} ${cfg.ssh.hostKey}\n"}"
              ]
          )
        );
        ReadWritePaths = lib.optional (cfg.usbLabel != null) "-/media/backup";
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        NoNewPrivileges = true;
        CapabilityBoundingSet = [
          "CAP_DAC_OVERRIDE"
          "CAP_DAC_READ_SEARCH"
          "CAP_CHOWN"
          "CAP_FOWNER"
          # `tidegate` becomes the gateway's user.
          "CAP_SETUID"
          "CAP_SETGID"
        ];
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectControlGroups = true;
        RestrictNamespaces = true;
        SystemCallArchitectures = "native";
      };
    };
    # A stick that is plugged in is a wish for a backup.
    services.udev.extraRules = lib.mkIf (cfg.usbLabel != null) ''
      ACTION=="add", SUBSYSTEM=="block", ENV{ID_FS_LABEL}=="${cfg.usbLabel}", TAG+="systemd", ENV{SYSTEMD_WANTS}+="tidegate-backup.service"
    '';
  };
}
