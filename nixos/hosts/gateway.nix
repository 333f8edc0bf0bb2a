# The Raspberry Pi (4, 3 and 3+; see nixos/README.md for the 5) as the gateway. Copy it, or override
# what differs with `nixosConfigurations.gateway.extendModules`.
{ lib, ... }:
{
  imports = [ ../sd-image.nix ];

  nixpkgs.hostPlatform = lib.mkDefault "aarch64-linux";
  networking.hostName = "gateway";
  system.stateVersion = "26.05";
  hardware.enableRedistributableFirmware = true;

  services.tidegate.appliance = {
    enable = true;
    network = {
      management.interface = "end0";
      devices.interface = "wlan0";
    };
    accessPoint = {
      enable = true;
      countryCode = lib.mkDefault "SE";
    };
  };
}
