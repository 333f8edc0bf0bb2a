# The box that is exercised: in NixOS's VM tests, and by its rendered files in Debian's. Ethernet in
# place of Wi-Fi, an upstream and a device list as somebody might write them.
{ lib, ... }:
{
  networking.hostName = "gateway";
  networking.usePredictableInterfaceNames = lib.mkDefault false;
  system.stateVersion = "26.05";

  services.tidegate = {
    appliance = {
      enable = true;
      network = {
        management.interface = "eth0";
        devices = {
          interface = "eth1";
          address = "10.93.0.1";
        };
      };
      storage.stateDevice = null;
      factoryReset.marker = "/var/lib/tidegate-factory-reset";
      time = {
        servers = [ "192.168.77.2" ];
        nts = false;
      };
      health = {
        within = 120;
        steady = 5;
      };
      # The public half of release.key.
      updateServer.releaseKeys = [ "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" ];
      backup = {
        enable = true;
        # The test's own key; its private half is in tests/nixos/src/guest/backup.rs.
        recipients = [ "age1cteet25ay84z7phtu0g06dv6ke4znt9uqy5wujmj3sqdwxvd9c5sk0h96h" ];
        usbLabel = "TIDEGATE-BACKUP";
      };
    };

    upstreams.backend = {
      url = "http://192.168.77.2:8080";
      bearerTokenFile = "/var/lib/secrets/backend-token";
      retry_min = "200ms";
      retry_max = "2s";
    };

    devices = {
      sensor_001 = {
        signing = "v2";
        sensors.temperature.description = "Air, in degrees Celsius";
        groups = [ "greenhouse" ];
      };
      sensor_002 = { };
    };
  };
}
