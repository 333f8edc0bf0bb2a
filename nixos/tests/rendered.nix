# Which files of which configurations are kept as snapshots: `<configuration>.files` is where each is on
# the machine and where evaluation says it comes from. What those files refer to follows by itself.
{
  lib,
  nixosSystem,
  module,
}:
let
  unitNames = [
    "chronyd.service"
    "nftables.service"
    "nginx.service"
    "tidegate.service"
    "tidegate-backup.service"
    "tidegate-backup.timer"
    "tidegate-factory-reset.service"
    "tidegate-first-boot.service"
    "tidegate-health.service"
    "tidegate-log-flush.service"
    "tidegate-log-flush.timer"
    "tidegate-log-flush-at-shutdown.service"
    "tidegate-tls.path"
    "tidegate-tls.service"
    "tidegate-tls-again.service"
    "tidegate-welcome.service"
    "hostapd.service"
  ];
  etcNames = [
    "nginx/nginx.conf"
    "sysctl.d/60-nixos.conf"
    "systemd/journald.conf"
    "systemd/network/20-devices.network"
    "systemd/network/30-management.network"
    "systemd/resolved.conf"
    "tidegate/tidegate.toml"
  ];
  pick = names: set: lib.filterAttrs (name: _: lib.elem name names) set;

  render =
    { config, ... }:
    {
      toplevel = config.system.build.toplevel.drvPath;
      files =
        lib.mapAttrs' (name: unit: lib.nameValuePair "etc/systemd/system/${name}" "${unit.unit}/${name}") (
          pick unitNames config.systemd.units
        )
        // lib.mapAttrs' (name: etc: lib.nameValuePair "etc/${name}" "${etc.source}") (
          pick etcNames config.environment.etc
        );
      # NixOS enables units by links, so what starts them is not in the files.
      starts = lib.filterAttrs (_: by: by != { }) (
        lib.mapAttrs (
          _: unit: lib.filterAttrs (_: targets: targets != [ ]) { inherit (unit) wantedBy requiredBy; }
        ) (pick unitNames config.systemd.units)
      );
      # What units name and unit files do not make.
      users = lib.mapAttrs (_: user: {
        inherit (user) uid group home;
      }) (pick [ "chrony" "nginx" "tidegate" ] config.users.users);
      # systemd-tmpfiles' lines for the directories of these services.
      tmpfiles = lib.sort lib.lessThan (
        lib.filter (
          rule:
          lib.any (name: lib.hasInfix name rule) [
            "chrony"
            "nginx"
            "tidegate"
            "/run/issue.d"
          ]
        ) config.systemd.tmpfiles.rules
      );
    };
  system = modules: nixosSystem { modules = [ module ] ++ modules; };
  disk = {
    nixpkgs.hostPlatform = "x86_64-linux";
    boot.loader.grub.enable = false;
    fileSystems."/" = {
      device = "/dev/vda";
      fsType = "ext4";
    };
  };
in
{
  # Exercised in a Debian guest, so for this architecture.
  box = render (system [
    ./box.nix
    disk
  ]);
  # What that one leaves out, for the programs that read the files.
  full = render (system [
    ./full.nix
    disk
    { services.tidegate.appliance.storage.stateDevice = null; }
  ]);
  # What goes on the card.
  gateway = render (system [ ../hosts/gateway.nix ]);
}
