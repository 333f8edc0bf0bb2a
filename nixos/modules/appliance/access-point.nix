# A Wi-Fi network for devices, so that a box out of its carton needs nothing else.
{ config, lib, ... }:
let
  inherit (lib) mkEnableOption mkOption types;
  ownTypes = import ../tidegate/types.nix { inherit lib; };
  inherit (config.services.tidegate) appliance;
  cfg = appliance.accessPoint;
  inherit (appliance.network.devices) interface;
in
{
  options.services.tidegate.appliance.accessPoint = {
    enable = mkEnableOption "a Wi-Fi access point on the device interface";
    ssid = mkOption {
      type = types.str;
      default = "tidegate";
      description = "Name of the network.";
    };
    countryCode = mkOption {
      type = types.nullOr (types.strMatching "[A-Z]{2}");
      default = null;
      example = "SE";
      description = "The country the box is in: what the radio may do is a matter of law.";
    };
    channel = mkOption {
      type = types.ints.between 1 13;
      default = 6;
      description = "Channel in the 2.4 GHz band, the only one small chips know.";
    };
    passphraseFile = mkOption {
      type = types.nullOr ownTypes.secretPath;
      default = null;
      example = "/run/secrets/wifi";
      description = "File with the passphrase, 8 to 63 characters. Null: made at the first boot, and shown on the box's own screen.";
    };
  };

  config = lib.mkIf (appliance.enable && cfg.enable) {
    assertions = [
      {
        assertion = cfg.countryCode != null;
        message = "services.tidegate.appliance.accessPoint.countryCode is not set. Write the two letters of the country the box is in, such as \"SE\": the radio's power and channels depend on it.";
      }
      {
        assertion = appliance.network.devices.address != null;
        message = "services.tidegate.appliance.accessPoint: devices get their addresses from the box, so it needs one. Set network.devices.address, such as \"10.93.0.1\".";
      }
    ];

    services.hostapd = {
      enable = true;
      radios.${interface} = {
        band = "2g";
        inherit (cfg) channel;
        countryCode = lib.mkIf (cfg.countryCode != null) cfg.countryCode;
        wifi4.enable = true;
        networks.${interface} = {
          inherit (cfg) ssid;
          # Devices have nothing to say to one another that does not go through the gateway.
          apIsolate = true;
          # WPA3 where the device can, WPA2 for chips that cannot.
          authentication = {
            mode = "wpa3-sae-transition";
            wpaPasswordFile =
              if cfg.passphraseFile != null then cfg.passphraseFile else "/var/lib/tidegate-box/wifi";
            saePasswordsFile =
              if cfg.passphraseFile != null then cfg.passphraseFile else "/var/lib/tidegate-box/wifi";
          };
        };
      };
    };
    systemd.services.hostapd = {
      after = [ "tidegate-first-boot.service" ];
      requires = [ "tidegate-first-boot.service" ];
    };
  };
}
