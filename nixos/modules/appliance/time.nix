# Time: authenticated upstream, handed on to devices, and usable on a board whose clock forgets.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.tidegate) appliance;
  cfg = appliance.time;
  inherit (appliance) network;
in
{
  options.services.tidegate.appliance.time = {
    servers = mkOption {
      type = types.listOf types.str;
      default = [
        "time.cloudflare.com"
        "nts.netnod.se"
        "ptbtime1.ptb.de"
      ];
      description = "Time servers that speak NTS.";
    };
    nts = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the servers prove who they are (NTS). Turn off only for servers on a network of your own.";
    };
    rtc = mkOption {
      type = types.nullOr (
        types.enum [
          "ds1307"
          "ds3231"
          "pcf8523"
        ]
      );
      default = null;
      description = "A real-time clock on the board's I²C header.";
    };
    serveUnsynchronised = mkOption {
      type = types.bool;
      default = false;
      description = "Serve the box's own idea of the time when no server can be reached: for sites without internet that have a real-time clock.";
    };
  };

  config = lib.mkIf appliance.enable {
    assertions = [
      {
        assertion = !(cfg.serveUnsynchronised && cfg.rtc == null && cfg.servers == [ ]);
        message = "services.tidegate.appliance.time: without servers and without a real-time clock there is no time to serve. Set time.rtc, or name a server in time.servers.";
      }
    ];

    services.chrony = {
      enable = true;
      inherit (cfg) servers;
      enableNTS = cfg.nts;
      enableRTCTrimming = cfg.rtc != null;
      makestep = {
        threshold = 1;
        limit = 3;
      };
      # Without a clock of its own the board starts with the time at which it last knew better (-s: the
      # drift file's date), which is wrong, but never before that.
      extraFlags = [ "-s" ];
      extraConfig = ''
        # Certificates cannot be judged by a clock that has yet to be set: believe the first answer.
        ${lib.optionalString cfg.nts "nocerttimecheck 1"}
        # One server may be wrong; not two of three.
        minsources ${if lib.length cfg.servers >= 3 then "2" else "1"}
        maxdistance 1.5
        ${lib.optionalString (
          network.devices.address != null
        ) "allow ${network.devices.address}/${toString network.devices.prefixLength}"}
        ${lib.optionalString (network.devices.address == null) "allow"}
        ratelimit interval 1 burst 16 leak 2
        clientloglimit 1048576
        ${lib.optionalString cfg.serveUnsynchronised "local stratum 10"}
        ${lib.optionalString (cfg.rtc == null) "rtcsync"}
        # Nobody asks chronyd how it is but over its socket.
        cmdport 0
      '';
    };

    boot.kernelModules = lib.optional (cfg.rtc != null) (
      if cfg.rtc == "pcf8523" then "rtc-pcf8523" else "rtc-ds1307"
    );
    hardware.deviceTree = lib.mkIf (cfg.rtc != null && pkgs.stdenv.hostPlatform.isAarch64) {
      enable = true;
      overlays = [
        {
          name = "tidegate-rtc";
          filter = "bcm2*-rpi-*.dtb";
          dtsText = ''
            /dts-v1/;
            /plugin/;
            / {
              compatible = "brcm,bcm2711", "brcm,bcm2837", "brcm,bcm2712";
              fragment@0 {
                target = <&i2c1>;
                __overlay__ {
                  #address-cells = <1>;
                  #size-cells = <0>;
                  status = "okay";
                  rtc@68 {
                    compatible = "${
                      if cfg.rtc == "pcf8523" then
                        "nxp,pcf8523"
                      else
                        (if cfg.rtc == "ds1307" then "dallas,ds1307" else "maxim,ds3231")
                    }";
                    reg = <0x68>;
                  };
                };
              };
            };
          '';
        }
      ];
    };
  };
}
