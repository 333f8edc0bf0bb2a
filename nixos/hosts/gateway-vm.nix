# The same box in QEMU: `nix run .#vm`. Two virtual networks in place of cable and radio; the
# management network's ports are the host's 8443 and 2222, on loopback.
{
  config,
  lib,
  modulesPath,
  ...
}:
{
  imports = [ "${modulesPath}/virtualisation/qemu-vm.nix" ];

  nixpkgs.hostPlatform = lib.mkDefault "x86_64-linux";
  networking.hostName = "gateway";
  system.stateVersion = "26.05";

  services.tidegate.appliance = {
    enable = true;
    network = {
      management.interface = "eth0";
      devices.interface = "eth1";
    };
    # The virtual disk is one file system, and there is no card to take out.
    storage.stateDevice = null;
    factoryReset.marker = "/var/lib/tidegate-factory-reset";
  };
  networking.usePredictableInterfaceNames = false;

  virtualisation = {
    graphics = false;
    memorySize = 2048;
    cores = 2;
    qemu.networkingOptions = lib.mkForce [
      "-nic user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:8443-:8443,hostfwd=tcp:127.0.0.1:2222-:22"
      "-nic user,model=virtio-net-pci,restrict=on"
    ];
    forwardPorts = lib.mkForce [ ];
  };
  # Enough to see what is going on: this machine is nobody's gateway.
  services.getty.autologinUser = lib.mkIf (
    config.services.tidegate.appliance.ssh.authorizedKeys == [ ]
  ) "root";
}
