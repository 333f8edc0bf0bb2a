# nginx: firmware updates for devices, which the gateway decides and nginx sends; and if wanted the
# console for people.
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
  gateway = config.services.tidegate.settings.updates;
  pki = "${config.services.tidegate.settings.state_dir}/pki";
  tls = "/run/tidegate-tls";
  # Files that the gateway makes in these are nginx's group's, and nobody else can enter: who may open
  # the socket is believed about whom it speaks for.
  socketFolder = "/run/tidegate-updates";
  releases = "/var/lib/tidegate-releases";
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
        default = updates.releaseKeys != [ ];
        defaultText = lib.literalMD "whether there are `releaseKeys`";
        description = "Whether devices can ask the box for firmware updates.";
      };
      releaseKeys = mkOption {
        type = types.listOf (types.strMatching "[0-9a-fA-F]{64}");
        default = [ ];
        example = [ "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" ];
        description = ''
          Public keys whose firmware releases are trusted, by the gateway and by devices issued from now
          on: one, or two while one replaces the other. `tidegate firmware keygen` makes them, where
          releases are built.
        '';
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
        assertion = !updates.enable || updates.releaseKeys != [ ];
        message = "services.tidegate.appliance.updateServer has no key that releases are signed with, so it could offer none. Set updateServer.releaseKeys to what tidegate firmware keygen printed, or updateServer.enable = false.";
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

    systemd.tmpfiles.rules = lib.mkIf updates.enable (
      map (folder: "d ${folder} 2750 ${config.services.tidegate.user} ${config.services.nginx.group} - -")
        [
          releases
          socketFolder
        ]
    );
    systemd.services.tidegate.serviceConfig.ReadWritePaths = lib.mkIf updates.enable [
      releases
      socketFolder
    ];
    services.tidegate.settings.updates = lib.mkIf updates.enable {
      # nginx listens.
      address = "off";
      socket = "${socketFolder}/socket";
      releases_dir = releases;
      release_keys = updates.releaseKeys;
      bytes_per_second = updates.bytesPerSecond;
      connections_per_address = lib.mkDefault 16;
    };

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
        log_format journal '$remote_addr "$ssl_client_s_dn" "$request" $status $body_bytes_sent "$http_range"';
        access_log syslog:server=unix:/dev/log,nohostname,tag=nginx journal;
      '';
      # What `tidegate firmware nginx` prints, from the same text.
      appendHttpConfig = lib.mkIf updates.enable (
        lib.replaceStrings
          [
            "@listen@"
            "@socket@"
            "@releases@"
            "@pki@"
            "@connections_per_address@"
            "@stall_seconds@"
          ]
          [
            "0.0.0.0:${toString updates.port}"
            gateway.socket
            gateway.releases_dir
            tls
            (toString gateway.connections_per_address)
            "30"
          ]
          (builtins.readFile ../../../src/ota/nginx.conf)
      );
      virtualHosts = {
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
