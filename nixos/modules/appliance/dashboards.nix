# Curves on the box itself: InfluxDB and Grafana, for this machine's eyes unless opened.
#
# The gateway owes every accepted message to one more upstream, this machine: nginx takes the device's id
# out of the path, and Telegraf makes a point of every number in the payload, at the time the device signed.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkEnableOption mkOption types;
  ownTypes = import ../tidegate/types.nix { inherit lib; };
  inherit (config.services.tidegate) appliance;
  cfg = appliance.dashboards;
  token = "/var/lib/tidegate-box/influxdb-token";
  # Loopback only: where the gateway sends readings, and where Telegraf takes them.
  readingsPort = 8187;
  telegrafPort = 8186;
in
{
  options.services.tidegate.appliance.dashboards = {
    enable = mkEnableOption "InfluxDB and Grafana with a data source and dashboards for the gateway's devices";
    open = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the management network reaches Grafana (port 3000). Otherwise: `ssh -L 3000:localhost:3000 admin@gateway`.";
    };
    adminPasswordFile = mkOption {
      type = types.nullOr ownTypes.secretPath;
      default = null;
      example = "/run/secrets/grafana-admin";
      description = "File with the password of Grafana's `admin`. Null: made at the first boot, in /var/lib/tidegate-box/grafana-password.";
    };
    retention = mkOption {
      type = types.ints.positive;
      default = 90 * 24 * 3600;
      description = "Seconds that readings are kept.";
    };
  };

  config = lib.mkIf (appliance.enable && cfg.enable) {
    services.influxdb2 = {
      enable = true;
      settings = {
        http-bind-address = "127.0.0.1:8086";
        reporting-disabled = true;
      };
      provision = {
        enable = true;
        initialSetup = {
          organization = "tidegate";
          bucket = "devices";
          inherit (cfg) retention;
          passwordFile = "/var/lib/tidegate-box/influxdb-password";
          tokenFile = token;
        };
      };
    };
    systemd.services.influxdb2 = {
      after = [ "tidegate-first-boot.service" ];
      requires = [ "tidegate-first-boot.service" ];
    };

    services.tidegate.upstreams.dashboards.url = "http://127.0.0.1:${toString readingsPort}";

    services.nginx = {
      enable = true;
      virtualHosts.tidegate-readings = {
        listen = [
          {
            addr = "127.0.0.1";
            port = readingsPort;
          }
        ];
        locations."~ ^/device/(?<tidegate_device>[A-Za-z0-9_-]+)/data$".extraConfig = ''
          client_max_body_size 256k;
          rewrite ^ /telegraf break;
          proxy_pass http://127.0.0.1:${toString telegrafPort};
          proxy_set_header X-Tidegate-Device $tidegate_device;
          # What has no numbers makes no curve, and is nothing to try again.
          proxy_intercept_errors on;
          error_page 400 = @no_numbers;
        '';
        locations."@no_numbers".return = "204";
        locations."/".return = "404";
      };
    };

    services.telegraf = {
      enable = true;
      extraConfig = {
        agent = {
          omit_hostname = true;
          flush_interval = "5s";
          metric_buffer_limit = 10000;
        };
        secretstores.systemd = [ { id = "box"; } ];
        inputs.http_listener_v2 = [
          {
            service_address = "tcp://127.0.0.1:${toString telegrafPort}";
            paths = [ "/telegraf" ];
            methods = [ "POST" ];
            data_format = "json";
            json_strict = false;
            name_override = "readings";
            http_header_tags = {
              X-Tidegate-Device = "device";
              Tidegate-Timestamp = "signed_at";
            };
          }
        ];
        processors.starlark = [
          {
            source = ''
              def apply(metric):
                  signed_at = metric.tags.pop("signed_at", None)
                  if signed_at != None:
                      metric.time = int(signed_at) * 1000000000
                  return metric
            '';
          }
        ];
        outputs.influxdb_v2 = [
          {
            urls = [ "http://127.0.0.1:8086" ];
            token = "@{box:influxdb-token}";
            organization = "tidegate";
            bucket = "devices";
          }
        ];
      };
    };
    systemd.services.telegraf = {
      after = [ "tidegate-first-boot.service" ];
      requires = [ "tidegate-first-boot.service" ];
      serviceConfig = {
        LoadCredential = [ "influxdb-token:${token}" ];
        AmbientCapabilities = lib.mkForce [ ];
        CapabilityBoundingSet = "";
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        MemoryMax = "256M";
      };
    };

    services.grafana = {
      enable = true;
      settings = {
        server = {
          http_addr = if cfg.open then "0.0.0.0" else "127.0.0.1";
          http_port = 3000;
        };
        analytics = {
          reporting_enabled = false;
          check_for_updates = false;
          check_for_plugin_updates = false;
        };
        security = {
          admin_password = "$__file{/run/credentials/grafana.service/admin-password}";
          secret_key = "$__file{/run/credentials/grafana.service/secret-key}";
          disable_gravatar = true;
        };
        users.allow_sign_up = false;
      };
      provision = {
        enable = true;
        datasources.settings.datasources = [
          {
            name = "Tidegate";
            type = "influxdb";
            uid = "tidegate";
            url = "http://127.0.0.1:8086";
            isDefault = true;
            jsonData = {
              version = "Flux";
              organization = "tidegate";
              defaultBucket = "devices";
            };
            secureJsonData.token = "$__file{/run/credentials/grafana.service/influxdb-token}";
          }
        ];
        dashboards.settings.providers = [
          {
            name = "Tidegate";
            options.path = pkgs.writeTextDir "tidegate.json" (builtins.toJSON (import ./dashboard.nix));
          }
        ];
      };
    };
    systemd.services.grafana = {
      after = [ "tidegate-first-boot.service" ];
      requires = [ "tidegate-first-boot.service" ];
      serviceConfig.LoadCredential = [
        "admin-password:${
          if cfg.adminPasswordFile != null then
            cfg.adminPasswordFile
          else
            "/var/lib/tidegate-box/grafana-password"
        }"
        "secret-key:/var/lib/tidegate-box/grafana-secret-key"
        "influxdb-token:${token}"
      ];
    };
  };
}
