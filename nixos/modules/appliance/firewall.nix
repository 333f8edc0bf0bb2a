# What each network may reach. Everything else is dropped, counted and, slowly, logged.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.tidegate) appliance;
  cfg = appliance.firewall;
  inherit (appliance) network;

  serving = network.devices.address != null;
  portOf = address: lib.last (lib.splitString ":" address);
  listenerPorts = lib.mapAttrsToList (
    _: l: portOf l.address
  ) config.services.tidegate.settings.listeners;
  apiAddress = config.services.tidegate.settings.api.address;

  list = ports: lib.concatStringsSep ", " (map toString (lib.unique ports));
  deviceTcp = listenerPorts ++ lib.optional appliance.updateServer.enable appliance.updateServer.port;
  managementTcp =
    lib.optional (apiAddress != null) (portOf apiAddress)
    ++ lib.optional config.services.openssh.enable 22
    ++ lib.optional appliance.web.enable 443
    ++ lib.optional (appliance.web.enable && appliance.web.acme.enable) 80
    ++ lib.optional (appliance.dashboards.enable && appliance.dashboards.open) 3000
    ++ cfg.managementPorts;
in
{
  options.services.tidegate.appliance.firewall = {
    newConnectionsPerSecond = mkOption {
      type = types.ints.positive;
      default = 20;
      description = "New connections per second that one address may open, with a burst of as many again and again for five seconds.";
    };
    managementPorts = mkOption {
      type = types.listOf types.port;
      default = [ ];
      description = "Further TCP ports to open towards the management network.";
    };
  };

  config = lib.mkIf appliance.enable {
    # NixOS's own firewall knows ports, not roles.
    networking.firewall.enable = false;
    networking.nftables = {
      enable = true;
      tables.tidegate = {
        family = "inet";
        content = ''
          # How fast each address opens connections. Full sets let nobody new in, so that an attacker
          # with many addresses meets a limit too; entries leave after a minute.
          set new4 {
            type ipv4_addr
            flags dynamic
            size 16384
            timeout 1m
          }
          set new6 {
            type ipv6_addr
            flags dynamic
            size 16384
            timeout 1m
          }

          chain spoofed {
            type filter hook prerouting priority raw; policy accept;
            # An answer would leave by another interface than this came in by: a forged source.
            # DHCP asks from 0.0.0.0.
            meta nfproto ipv4 udp sport 68 udp dport 67 accept
            # So do neighbours that are still choosing an address.
            ip6 saddr :: accept
            fib saddr . iif oif missing counter drop
          }

          chain input {
            type filter hook input priority filter; policy drop;
            iifname "lo" accept
            ct state vmap { established : accept, related : accept, invalid : drop }
            # Strong hosts: an interface answers for its own addresses only.
            fib daddr . iif type != { local, broadcast, multicast } counter drop
            # ICMP and ICMPv6, by number: their names are in a file that may not be there.
            meta l4proto { 1, 58 } jump icmp_in
            tcp flags & (fin | syn | rst | ack) == syn jump new_connection
            iifname "${network.devices.interface}" jump from_devices
            iifname "${network.management.interface}" jump from_management
            limit rate 1/second burst 10 packets log prefix "tidegate refused: " level info
            counter drop
          }

          chain icmp_in {
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, mld-listener-query } accept
            icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } limit rate 10/second accept
            icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem } limit rate 10/second accept
            counter drop
          }

          chain new_connection {
            meta nfproto ipv4 update @new4 { ip saddr limit rate ${toString cfg.newConnectionsPerSecond}/second burst ${
              toString (5 * cfg.newConnectionsPerSecond)
            } packets } return
            meta nfproto ipv6 update @new6 { ip6 saddr limit rate ${toString cfg.newConnectionsPerSecond}/second burst ${
              toString (5 * cfg.newConnectionsPerSecond)
            } packets } return
            limit rate 1/second burst 5 packets log prefix "tidegate too fast: " level info
            counter drop
          }

          chain from_devices {
            tcp dport { ${list deviceTcp} } accept
            udp dport 123 accept
            ${lib.optionalString serving ''
              udp dport { 53, 67 } accept
              tcp dport 53 accept
            ''}
            udp dport 5353 ip daddr 224.0.0.251 accept
          }

          chain from_management {
            ${lib.optionalString (managementTcp != [ ]) "tcp dport { ${list managementTcp} } accept"}
            udp dport 5353 accept
            udp dport 546 ip6 saddr fe80::/10 accept
          }

          chain forward {
            type filter hook forward priority filter; policy drop;
            limit rate 1/second burst 10 packets log prefix "tidegate not forwarded: " level info
            counter drop
          }

          # Towards devices the gateway answers and never asks, but for what serving them takes.
          chain output {
            type filter hook output priority filter; policy accept;
            ${lib.optionalString (network.devices.interface != network.management.interface) ''
              oifname "${network.devices.interface}" ct state new jump to_devices
            ''}
          }

          chain to_devices {
            meta l4proto { 1, 58 } accept
            udp dport { 67, 68, 5353 } accept
            limit rate 1/second burst 5 packets log prefix "tidegate not sent: " level info
            counter drop
          }
        '';
      };
    };
  };
}
