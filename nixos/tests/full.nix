# A box with what the other one leaves out: one network for all, the console, curves, ssh, backups over
# ssh, a clock of its own, updates by itself, and devices of every kind.
{
  networking.hostName = "gateway";
  networking.usePredictableInterfaceNames = false;
  system.stateVersion = "26.05";

  services.tidegate = {
    appliance = {
      enable = true;
      network = {
        management.interface = "eth0";
        devices = {
          interface = "eth0";
          address = null;
        };
      };
      ssh.authorizedKeys = [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfxcVsFmZPUNbXE8nXgFqQq1NUB4bYdWkEkCWMIDoKL me@laptop"
      ];
      storage.readOnlyRoot = true;
      web.enable = true;
      # One that is replaced, and its successor: the first two keys of RFC 8032, section 7.1.
      updateServer = {
        releaseKeys = [
          "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
          "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        ];
        bytesPerSecond = 65536;
      };
      dashboards = {
        enable = true;
        open = true;
      };
      selfUpdate.flake = "github:example/our-gateway";
      time = {
        rtc = "ds3231";
        serveUnsynchronised = true;
      };
      backup = {
        enable = true;
        recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
        ssh = {
          target = "backup@nas.example.com";
          keyFile = "/run/secrets/backup-ssh-key";
          hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfxcVsFmZPUNbXE8nXgFqQq1NUB4bYdWkEkCWMIDoKL";
        };
      };
    };

    settings = {
      api.address = "127.0.0.1:8443";
      listeners.devices.address = "0.0.0.0:8883";
      limits.messages_per_second = 20;
    };
    masterKey.file = "/run/secrets/tidegate-master-key";
    upstreams.backend = {
      url = "https://backend.example.com";
      bearerTokenFile = "/run/secrets/backend-token";
    };

    devices = {
      sensor_001 = {
        signing = "v2";
        secretFile = "/run/secrets/sensor_001";
        groups = [
          "greenhouse"
          "roof"
        ];
        messagesPerSecond = 5;
      };
      sensor_002.enable = false;
      meter = {
        signing = "none";
        sensors.level.topic = "meter/level";
        actuators.pump.topic = "meter/pump/set";
      };
    };
  };
}
