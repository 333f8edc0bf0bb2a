# nginx: firmware releases for devices (mutual TLS, ranges), and if wanted the console for people.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkEnableOption mkOption types;
  inherit (config.services.tidegate) appliance;
  cfg = appliance.web;
  updates = appliance.updateServer;
  inherit (config.services.tidegate.settings) api;
  pki = "${config.services.tidegate.settings.state_dir}/pki";
  tls = "/run/tidegate-tls";
  materials = [
    "server.crt"
    "server.key"
    "clients.pem"
    "crl.pem"
  ];
  apiPort = lib.last (lib.splitString ":" (if api.address == null then "0.0.0.0:0" else api.address));
in
{
  options.services.tidegate.appliance = {
    updateServer = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether devices can download firmware releases from the box.";
      };
      port = mkOption {
        type = types.port;
        default = 8444;
        description = "Port of the update server, on the device network.";
      };
      bytesPerSecond = mkOption {
        type = types.ints.positive;
        default = 262144;
        description = "Bytes per second one download gets, so that a fleet that updates leaves room for messages.";
      };
    };
    web = {
      enable = mkEnableOption "the console and the API on port 443 of the management network, behind nginx";
      acme = {
        enable = mkEnableOption "a certificate from an ACME authority in place of the gateway's own";
        host = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "gateway.example.com";
          description = "The name the certificate is for; the authority must reach it on port 80.";
        };
        email = mkOption {
          type = types.nullOr types.str;
          default = null;
          description = "Whom the authority writes to when a certificate is about to run out.";
        };
      };
    };
  };

  config = lib.mkIf (appliance.enable && (updates.enable || cfg.enable)) {
    assertions = [
      {
        assertion = !cfg.acme.enable || (cfg.enable && cfg.acme.host != null && cfg.acme.email != null);
        message = "services.tidegate.appliance.web.acme needs web.enable = true, and web.acme.host and web.acme.email to be set.";
      }
      {
        assertion = !cfg.enable || api.address != null;
        message = "services.tidegate.appliance.web has nothing to stand in front of: set services.tidegate.settings.api.address, such as \"127.0.0.1:8443\".";
      }
      {
        assertion =
          !updates.enable
          || !lib.any (l: lib.hasSuffix ":${toString updates.port}" l.address) (
            lib.attrValues config.services.tidegate.settings.listeners
          );
        message = "services.tidegate.appliance.updateServer.port ${toString updates.port} is a listener of services.tidegate.settings as well. Give one of them another port.";
      }
    ];

    # The service's state is its own: nginx gets copies of what it needs, in memory, and again when
    # certificates or revocations change.
    systemd.services.tidegate-tls = {
      description = "Hand the gateway's certificate and revocations to nginx";
      requiredBy = [ "nginx.service" ];
      before = [ "nginx.service" ];
      after = [ "tidegate.service" ];
      wants = [ "tidegate.service" ];
      path = [ pkgs.coreutils ];
      script = ''
        for file in ${toString materials}; do
          install -m 0640 -g ${config.services.nginx.group} ${pki}/"$file" ${tls}/"$file.new"
          mv ${tls}/"$file.new" ${tls}/"$file"
        done
      '';
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStartPost = "-+${config.systemd.package}/bin/systemctl try-reload-or-restart --no-block nginx.service";
        RuntimeDirectory = "tidegate-tls";
        RuntimeDirectoryMode = "0755";
        CapabilityBoundingSet = [
          "CAP_CHOWN"
          "CAP_DAC_READ_SEARCH"
        ];
        ProtectSystem = "strict";
        PrivateNetwork = true;
        PrivateDevices = true;
        PrivateTmp = true;
        NoNewPrivileges = true;
        ProtectHome = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectKernelLogs = true;
        ProtectControlGroups = true;
        RestrictAddressFamilies = "AF_UNIX";
        RestrictNamespaces = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@resources"
        ];
      };
    };
    systemd.paths.tidegate-tls = {
      wantedBy = [ "multi-user.target" ];
      pathConfig.PathChanged = map (file: "${pki}/${file}") materials;
      pathConfig.Unit = "tidegate-tls-again.service";
    };
    systemd.services.tidegate-tls-again = {
      description = "Hand changed certificates and revocations to nginx";
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${config.systemd.package}/bin/systemctl restart tidegate-tls.service";
      };
    };
    # Replacing the copies must not take nginx down with it.
    systemd.services.nginx.after = [ "tidegate-tls.service" ];

    systemd.tmpfiles.rules = [
      "d /var/lib/tidegate-releases 0750 ${config.services.tidegate.user} ${config.services.nginx.group} - -"
    ];

    services.nginx = {
      enable = true;
      enableReload = true;
      serverTokens = false;
      recommendedTlsSettings = false;
      sslProtocols = "TLSv1.2 TLSv1.3";
      commonHttpConfig = ''
        # What is too big for memory goes to the service's own cache folder, however nginx was built.
        client_body_temp_path /var/cache/nginx/client_body;
        proxy_temp_path /var/cache/nginx/proxy;
        fastcgi_temp_path /var/cache/nginx/fastcgi;
        uwsgi_temp_path /var/cache/nginx/uwsgi;
        scgi_temp_path /var/cache/nginx/scgi;
        limit_conn_zone $binary_remote_addr zone=address:1m;
        log_format journal '$remote_addr "$ssl_client_s_dn" "$request" $status $body_bytes_sent "$http_range"';
        access_log syslog:server=unix:/dev/log,nohostname,tag=nginx journal;
      '';
      virtualHosts = {
        # Whoever asks for a name we do not have gets no certificate and no answer.
        tidegate-updates = lib.mkIf updates.enable {
          default = true;
          serverName = "_";
          listen = [
            {
              addr = "0.0.0.0";
              inherit (updates) port;
              ssl = true;
            }
          ];
          onlySSL = true;
          sslCertificate = "${tls}/server.crt";
          sslCertificateKey = "${tls}/server.key";
          extraConfig = ''
            ssl_client_certificate ${tls}/clients.pem;
            ssl_crl ${tls}/crl.pem;
            ssl_verify_client on;
            ssl_verify_depth 3;
            ssl_session_tickets off;
            limit_conn address 4;
            client_max_body_size 1k;
            client_header_timeout 10s;
            client_body_timeout 10s;
            send_timeout 30s;
            keepalive_timeout 30s;
          '';
          locations."/".return = "404";
          locations."/releases/" = {
            alias = "/var/lib/tidegate-releases/";
            extraConfig = ''
              limit_except GET { deny all; }
              limit_rate ${toString updates.bytesPerSecond};
              autoindex off;
              default_type application/octet-stream;
              add_header Cache-Control "no-cache" always;
              add_header X-Content-Type-Options nosniff always;
            '';
          };
        };
        ${if cfg.acme.enable then cfg.acme.host else "tidegate-console"} = lib.mkIf cfg.enable (
          {
            locations."/" = {
              proxyPass = "https://127.0.0.1:${apiPort}";
              recommendedProxySettings = true;
              extraConfig = ''
                proxy_ssl_trusted_certificate ${tls}/server.crt;
                proxy_ssl_verify off;
                proxy_read_timeout 120s;
                client_max_body_size 64k;
              '';
            };
            extraConfig = ''
              add_header Strict-Transport-Security "max-age=31536000" always;
            '';
          }
          // (
            if cfg.acme.enable then
              {
                enableACME = true;
                forceSSL = true;
              }
            else
              {
                serverName = config.networking.hostName;
                serverAliases = [ "${config.networking.hostName}.local" ];
                onlySSL = true;
                sslCertificate = "${tls}/server.crt";
                sslCertificateKey = "${tls}/server.key";
              }
          )
        );
      };
    };
    security.acme = lib.mkIf cfg.acme.enable {
      acceptTerms = true;
      defaults.email = cfg.acme.email;
    };
    systemd.services.nginx.serviceConfig = {
      # The port is above 1023 unless the console is served as well.
      MemoryMax = "256M";
      TasksMax = 64;
    };
  };
}
