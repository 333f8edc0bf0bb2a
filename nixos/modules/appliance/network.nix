# Two networks with different rights: devices on one, people and backends on the other.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.tidegate) appliance;
  cfg = appliance.network;
  serving = cfg.devices.address != null;
in
{
  options.services.tidegate.appliance.network = {
    devices = {
      interface = mkOption {
        type = types.str;
        default = "wlan0";
        description = "The interface devices are behind. It may be the management interface too; then the firewall cannot keep them apart.";
      };
      address = mkOption {
        type = types.nullOr types.str;
        default = "10.93.0.1";
        description = "The gateway's address on the device network, which it then serves with DHCP and DNS. Null: take an address from a DHCP server there.";
      };
      prefixLength = mkOption {
        type = types.ints.between 8 30;
        default = 24;
        description = "Size of the device network.";
      };
    };
    management.interface = mkOption {
      type = types.str;
      default = "end0";
      description = "The interface people, backends and the internet are behind.";
    };
  };

  config = lib.mkIf appliance.enable {
    assertions = [
      {
        assertion = !(serving && cfg.devices.interface == cfg.management.interface);
        message = "services.tidegate.appliance.network: the device network has an address of its own on ${cfg.devices.interface}, which is the management interface as well. Set network.devices.address = null to share the network that is there, or give devices another interface.";
      }
    ];

    networking = {
      useNetworkd = true;
      useDHCP = false;
      # Devices must not reach the internet through the box, nor anything else.
      nat.enable = false;
    };
    boot.kernel.sysctl = {
      "net.ipv4.ip_forward" = 0;
      "net.ipv6.conf.all.forwarding" = 0;
      "net.ipv4.conf.all.accept_redirects" = 0;
      "net.ipv4.conf.all.send_redirects" = 0;
      "net.ipv6.conf.all.accept_redirects" = 0;
      # Strong hosts: an address is answered for on its own interface only.
      "net.ipv4.conf.all.arp_ignore" = 1;
      "net.ipv4.conf.all.arp_announce" = 2;
    };

    systemd.network = {
      enable = true;
      wait-online.anyInterface = true;
      wait-online.timeout = 30;
      networks = {
        "30-management" = {
          matchConfig.Name = cfg.management.interface;
          networkConfig = {
            DHCP = "yes";
            MulticastDNS = true;
            IPv6PrivacyExtensions = false;
          };
          linkConfig.RequiredForOnline = "routable";
        };
      }
      // lib.optionalAttrs (cfg.devices.interface != cfg.management.interface) {
        "20-devices" = {
          matchConfig.Name = cfg.devices.interface;
          networkConfig = {
            MulticastDNS = true;
            ConfigureWithoutCarrier = true;
            IPv6AcceptRA = false;
            LinkLocalAddressing = "no";
          }
          // (
            if serving then
              {
                Address = "${cfg.devices.address}/${toString cfg.devices.prefixLength}";
                DHCPServer = true;
              }
            else
              { DHCP = "ipv4"; }
          );
          # Devices learn the gateway as name server and clock, and no way out.
          dhcpServerConfig = lib.mkIf serving {
            EmitRouter = false;
            EmitDNS = true;
            DNS = cfg.devices.address;
            EmitNTP = true;
            NTP = cfg.devices.address;
            PersistLeases = "runtime";
          };
          dhcpV4Config = lib.mkIf (!serving) {
            UseGateway = false;
            UseDNS = false;
          };
          linkConfig.RequiredForOnline = false;
        };
      };
    };

    # mDNS on both networks; on the device network also DNS, for the gateway's own name only.
    services.resolved = {
      enable = true;
      settings.Resolve = {
        MulticastDNS = true;
        LLMNR = false;
        DNSStubListenerExtra = lib.mkIf serving cfg.devices.address;
      };
    };
    networking.hosts = lib.mkIf serving {
      ${cfg.devices.address} = [
        config.networking.hostName
        "${config.networking.hostName}.local"
      ];
    };
  };
}
