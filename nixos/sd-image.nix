# The image for a card: firmware (FAT), system (ext4, with room for the next systems) and state (ext4,
# which grows to the card's end at the first boot).
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  # Room for two more generations beside the one in the image.
  systemRoomMiB = 4096;
  stateMiB = 64;
in
{
  imports = [ "${modulesPath}/installer/sd-card/sd-image-aarch64.nix" ];

  image.baseName = "tidegate-${config.networking.hostName}-aarch64";

  # Only one partition can grow to the end, and it is not the system's.
  sdImage.expandOnBoot = false;
  sdImage.firmwareSize = 128;
  sdImage.preBuildCommands = ''
    cp --no-preserve=mode "$root_fs" ./tidegate-root.img
    root_fs=./tidegate-root.img
    truncate -s +${toString systemRoomMiB}M $root_fs
    resize2fs $root_fs
  '';
  sdImage.postBuildCommands = ''
    truncate -s ${toString stateMiB}M state.img
    ${lib.getExe' pkgs.buildPackages.e2fsprogs "mkfs.ext4"} -q -L TIDEGATE_STATE -m 1 state.img
    start=$(( ($(stat -c %s $img) + 1048575) / 1048576 ))
    truncate -s $((start + ${toString stateMiB}))M $img
    echo "start=''${start}M, size=${toString stateMiB}M, type=83" | sfdisk --append --no-reread --no-tell-kernel $img
    dd conv=notrunc bs=1M if=state.img of=$img seek=$start
  '';

  # The partition first, here; the file system in it when it is mounted (x-systemd.growfs).
  boot.initrd.systemd.enable = true;
  boot.initrd.systemd.storePaths = [
    "${pkgs.cloud-utils.guest}/bin/growpart"
    "${lib.getExe' pkgs.util-linux "sfdisk"}"
  ];
  boot.initrd.systemd.services.tidegate-grow-state = {
    description = "Grow the state partition to the end of the card";
    wantedBy = [ "initrd.target" ];
    before = [ "sysroot-var-lib.mount" ];
    unitConfig.DefaultDependencies = false;
    after = [ "dev-disk-by\\x2dlabel-TIDEGATE_STATE.device" ];
    requires = [ "dev-disk-by\\x2dlabel-TIDEGATE_STATE.device" ];
    path = [
      pkgs.coreutils
      pkgs.util-linux
    ];
    serviceConfig.Type = "oneshot";
    script = ''
      partition=$(readlink -f /dev/disk/by-label/TIDEGATE_STATE)
      disk=/dev/$(lsblk -ndo PKNAME "$partition")
      # ", +" keeps the start and takes what is left; a partition that is already there stays.
      echo ", +" | sfdisk --no-reread -N 3 "$disk" || true
      partx --update "$disk" || true
    '';
  };

  # A Pi's card and network need little of what installers bring along.
  boot.supportedFilesystems.zfs = lib.mkForce false;
  boot.initrd.allowMissingModules = true;
}
