# An SD card dies of writes and of losing power in the middle of one. The system is written when it is
# updated and not between; what changes lies on a partition of its own; logs live in memory.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.tidegate) appliance;
  cfg = appliance.storage;
  flush = pkgs.writeShellApplication {
    name = "tidegate-log-flush";
    runtimeInputs = [
      config.systemd.package
      pkgs.coreutils
      pkgs.findutils
      pkgs.zstd
    ];
    text = ''
      cd /var/lib/tidegate-log
      journalctl --quiet --cursor-file=cursor --output=export | zstd --quiet > "$(date --utc +%Y%m%dT%H%M%SZ).export.zst"
      find . -name '*.export.zst' -mmin +${toString (cfg.logArchiveDays * 24 * 60)} -delete
    '';
  };
in
{
  options.services.tidegate.appliance.storage = {
    stateDevice = mkOption {
      type = types.nullOr types.str;
      default = "/dev/disk/by-label/TIDEGATE_STATE";
      description = "The partition for everything that changes, mounted on /var/lib. Null: keep it on the root file system.";
    };
    readOnlyRoot = mkOption {
      type = types.bool;
      default = false;
      description = "Mount the root file system read-only, with what little needs to be written there in memory. Updates then need `mount -o remount,rw /` first.";
    };
    logMemory = mkOption {
      type = types.str;
      default = "48M";
      description = "Memory for the journal.";
    };
    logArchiveDays = mkOption {
      type = types.ints.positive;
      default = 7;
      description = "How many days journals that were flushed to the card are kept.";
    };
  };

  config = lib.mkIf appliance.enable {
    fileSystems = lib.mkMerge [
      (lib.mkIf (cfg.stateDevice != null) {
        "/var/lib" = {
          device = cfg.stateDevice;
          fsType = "ext4";
          # Wanted before anything keeps state; grown to its partition when mounted.
          neededForBoot = true;
          autoResize = false;
          options = [
            "noatime"
            "nodev"
            "nosuid"
            "noexec"
            "commit=30"
            "x-systemd.growfs"
          ];
        };
      })
      {
        "/".options = [
          "noatime"
          "commit=60"
        ]
        ++ lib.optional cfg.readOnlyRoot "ro";
        "/var/log" = {
          device = "tmpfs";
          fsType = "tmpfs";
          options = [
            "mode=0755"
            "size=64M"
            "nodev"
            "nosuid"
            "noexec"
          ];
        };
      }
    ];
    boot.tmp = {
      useTmpfs = true;
      tmpfsSize = "30%";
    };
    zramSwap = {
      enable = true;
      memoryPercent = 50;
    };
    services.fstrim.enable = true;

    services.journald = {
      storage = "volatile";
      extraConfig = ''
        RuntimeMaxUse=${cfg.logMemory}
        RuntimeMaxFileSize=8M
        RateLimitIntervalSec=30s
        RateLimitBurst=2000
        ForwardToSyslog=no
      '';
    };
    # Once an hour, and before the power goes off in good order, what is new goes to the card in one
    # compressed piece.
    systemd.services.tidegate-log-flush = {
      description = "Write what is new in the journal to the card";
      startAt = "hourly";
      serviceConfig = {
        Type = "oneshot";
        StateDirectory = "tidegate-log";
        StateDirectoryMode = "0750";
        ExecStart = lib.getExe flush;
      };
    };
    systemd.services.tidegate-log-flush-at-shutdown = {
      description = "Write what is new in the journal to the card before the power goes off";
      wantedBy = [ "multi-user.target" ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        StateDirectory = "tidegate-log";
        StateDirectoryMode = "0750";
        ExecStart = "${pkgs.coreutils}/bin/true";
        ExecStop = lib.getExe flush;
      };
    };
  };
}
