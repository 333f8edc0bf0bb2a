# Configurations that must be refused, each with words its message must have. `outcome` is "refused"
# or "accepted"; for an assertion `messages` says what the user reads. (A thrown message cannot be
# caught in Nix: those mistakes are evaluated one by one from outside, by attribute `throws`.)
{
  lib,
  nixosSystem,
  module,
}:
let
  evaluate =
    configuration:
    (nixosSystem {
      modules = [
        module
        ./box.nix
        configuration
        {
          nixpkgs.hostPlatform = "x86_64-linux";
          boot.loader.grub.enable = false;
          fileSystems."/" = {
            device = "/dev/vda";
            fsType = "ext4";
          };
        }
      ];
    }).config;

  # An option that does not exist, or a value of a wrong type.
  thrown = configuration: says: {
    inherit says;
    kind = "throws";
    throws = (evaluate configuration).services.tidegate.configFile.drvPath;
    outcome =
      if (builtins.tryEval (evaluate configuration).services.tidegate.configFile.drvPath).success then
        "accepted"
      else
        "refused";
  };
  # Values that are fine each by itself.
  asserted =
    configuration: says:
    let
      messages = map (a: a.message) (lib.filter (a: !a.assertion) (evaluate configuration).assertions);
    in
    {
      inherit says messages;
      kind = "asserts";
      outcome =
        if lib.any (m: lib.all (word: lib.hasInfix word m) says) messages then "refused" else "accepted";
    };
in
{
  misspelt-option = thrown { services.tidegate.devices.sensor_001.signings = "v2"; } [
    "signings"
    "does not exist"
  ];
  unknown-signing = thrown { services.tidegate.devices.sensor_002.signing = "v3"; } [
    "sensor_002.signing"
    "is not of type"
  ];
  secret-as-nix-path = thrown { services.tidegate.devices.sensor_001.secretFile = ./box.nix; } [
    "secretFile"
    "copies into the world-readable Nix store"
    "/run/secrets/"
  ];
  secret-in-store =
    thrown
      {
        services.tidegate.devices.sensor_001.secretFile =
          "${builtins.storeDir}/00000000000000000000000000000000-secret";
      }
      [
        "secretFile"
        "points into the Nix store"
      ];
  secret-itself = thrown { services.tidegate.devices.sensor_001.secretFile = "hunter2"; } [
    "secretFile"
    "no absolute path"
    "change it"
  ];
  token-in-store =
    thrown
      {
        services.tidegate.upstreams.backend.bearerTokenFile =
          lib.mkForce "${builtins.storeDir}/00000000000000000000000000000000-token";
      }
      [
        "bearerTokenFile"
        "points into the Nix store"
      ];

  device-id = asserted { services.tidegate.devices."sensor 3" = { }; } [
    "sensor 3"
    "1 to 64 characters"
  ];
  unsigned-without-topics = asserted { services.tidegate.devices.led.signing = "none"; } [
    "led"
    "has no topics"
    "sensors.level.topic"
  ];
  signed-with-raw-topics = asserted { services.tidegate.devices.sensor_002.telemetry = [ "a/b" ]; } [
    "sensor_002"
    "do not sign"
  ];
  devices-in-settings = asserted { services.tidegate.settings.devices.x = { }; } [
    "services.tidegate.devices.<id>"
  ];
  two-master-keys = asserted {
    services.tidegate.masterKey = {
      file = "/run/secrets/key";
      encryptedFile = "/var/lib/key.cred";
    };
  } [ "both" ];
  upstream-twice = asserted { services.tidegate.settings.upstreams.backend.url = "http://other"; } [
    "same upstream"
  ];
  shared-interface = asserted {
    services.tidegate.appliance.network.devices.interface = lib.mkForce "eth0";
  } [ "network.devices.address = null" ];
  radio-without-country = asserted { services.tidegate.appliance.accessPoint.enable = true; } [
    "countryCode"
    "two letters"
  ];
  radio-without-address =
    asserted
      {
        services.tidegate.appliance = {
          accessPoint = {
            enable = true;
            countryCode = "SE";
          };
          network.devices.address = lib.mkForce null;
        };
      }
      [
        "accessPoint"
        "10.93.0.1"
      ];
  backup-in-the-clear =
    asserted { services.tidegate.appliance.backup.recipients = lib.mkForce [ ]; }
      [
        "age-keygen"
      ];
  backup-to-nowhere = asserted { services.tidegate.appliance.backup.usbLabel = lib.mkForce null; } [
    "either usbLabel or ssh.target"
  ];
  update-port-taken = asserted {
    services.tidegate.settings.listeners.second.address = "0.0.0.0:8444";
  } [ "another port" ];
  updates-without-a-key = asserted {
    services.tidegate.appliance.updateServer = {
      enable = true;
      releaseKeys = lib.mkForce [ ];
    };
  } [ "tidegate firmware keygen" ];
  release-key-of-another-kind = thrown {
    services.tidegate.appliance.updateServer.releaseKeys = [ "age1ql3z7hjy54pw3" ];
  } [ "releaseKeys" ];
  update-without-return = asserted {
    services.tidegate.appliance = {
      selfUpdate.flake = "github:example/ours";
      health.enable = false;
    };
  } [ "health.enable = true" ];
  console-without-api = asserted {
    services.tidegate.settings.api.address = null;
    services.tidegate.appliance.web.enable = true;
  } [ "nothing to stand in front of" ];
  no-time-at-all = asserted {
    services.tidegate.appliance.time = {
      servers = lib.mkForce [ ];
      serveUnsynchronised = true;
    };
  } [ "no time to serve" ];
}
