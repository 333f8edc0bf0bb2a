# Curves on the box itself: InfluxDB and Grafana, fed by the gateway, for this machine's eyes unless
# opened.
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
