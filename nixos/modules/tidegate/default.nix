# services.tidegate: the daemon, its configuration and its devices.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption mkEnableOption types;
  cfg = config.services.tidegate;
  ownTypes = import ./types.nix { inherit lib; };
  toTOML = import ./toml.nix { inherit lib; };

  # `services.tidegate.upstreams.<name>` with what LoadCredential= makes of its secrets.
  upstream = {
    freeformType = types.attrsOf types.anything;
    options = {
      type = mkOption {
        type = types.str;
        default = "http";
        description = "The kind of upstream.";
      };
      url = mkOption {
        type = types.str;
        example = "https://backend.example.com";
        description = "`http://` or `https://`; `/device/<id>/data` is appended.";
      };
      bearerTokenFile = mkOption {
        type = types.nullOr ownTypes.secretPath;
        default = null;
        example = "/run/secrets/backend-token";
        description = "File with the bearer token to send. Passed as a systemd credential: root alone need be able to read it.";
      };
      clientKeyFile = mkOption {
        type = types.nullOr ownTypes.secretPath;
        default = null;
        description = "Private key of the client certificate to show, passed as a systemd credential.";
      };
    };
  };
  credentials = "/run/credentials/tidegate.service";
  upstreamSecrets = lib.concatLists (
    lib.mapAttrsToList (
      name: u:
      lib.optional (u.bearerTokenFile != null) {
        credential = "upstream-${name}-token";
        path = u.bearerTokenFile;
      }
      ++ lib.optional (u.clientKeyFile != null) {
        credential = "upstream-${name}-key";
        path = u.clientKeyFile;
      }
    ) cfg.upstreams
  );
  renderedUpstream =
    name: u:
    removeAttrs u [
      "bearerTokenFile"
      "clientKeyFile"
    ]
    // lib.optionalAttrs (u.bearerTokenFile != null) {
      bearer_token_file = "${credentials}/upstream-${name}-token";
    }
    // lib.optionalAttrs (u.clientKeyFile != null) {
      client_key_file = "${credentials}/upstream-${name}-key";
    };

  withoutDevices =
    cfg.settings
    # What is left out has its default, which is on.
    // lib.optionalAttrs (cfg.settings.api.address == null) {
      api = cfg.settings.api // {
        address = "off";
      };
    }
    // lib.optionalAttrs (cfg.upstreams != { }) {
      upstreams = (cfg.settings.upstreams or { }) // lib.mapAttrs renderedUpstream cfg.upstreams;
    };
  settings =
    withoutDevices
    // lib.optionalAttrs (cfg.devices != { }) {
      devices = lib.mapAttrs (_: d: d.rendered) cfg.devices;
    };

  configFile = pkgs.writeTextFile {
    name = "tidegate.toml";
    text = toTOML settings;
    checkPhase = ''
      ${lib.getExe cfg.checkPackage} check --config $target --no-files
    '';
  };

  ports = lib.unique (
    lib.mapAttrsToList (_: l: lib.toInt (lib.last (lib.splitString ":" l.address))) (
      cfg.settings.listeners or { devices.address = "0.0.0.0:8883"; }
    )
    ++ lib.optional (cfg.settings.api.address or null != null) (
      lib.toInt (lib.last (lib.splitString ":" cfg.settings.api.address))
    )
  );

  # Everything below the state directory belongs to the service's user; a root shell that wrote there
  # would leave files the service cannot read.
  commandLine = pkgs.writeShellApplication {
    name = "tidegate";
    runtimeInputs = [ pkgs.util-linux ];
    text = ''
      export TIDEGATE_CONFIG=/etc/tidegate/tidegate.toml
      if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid=${cfg.user} --regid=${cfg.user} --init-groups -- ${lib.getExe cfg.package} "$@"
      fi
      exec ${lib.getExe cfg.package} "$@"
    '';
  };
in
{
  options.services.tidegate = {
    enable = mkEnableOption "Tidegate, a secure gateway for small devices";

    package = lib.mkPackageOption pkgs "tidegate" { };

    checkPackage = mkOption {
      type = types.package;
      default =
        if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
          cfg.package
        else
          pkgs.buildPackages.tidegate;
      defaultText = lib.literalMD "{option}`services.tidegate.package`, for the machine that builds";
      description = "The daemon that checks the configuration while it is built.";
    };

    user = mkOption {
      type = types.str;
      default = "tidegate";
      readOnly = true;
      description = "The user and group the daemon runs as. Files with devices' secrets must be readable by it.";
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = types.attrsOf types.anything;
        options = {
          state_dir = mkOption {
            type = types.str;
            default = "/var/lib/tidegate";
            readOnly = true;
            description = "Where the gateway keeps its database, certificates and keys.";
          };
          listeners = mkOption {
            type = types.attrsOf (
              types.submodule {
                freeformType = types.attrsOf types.anything;
                options.address = mkOption {
                  type = types.strMatching ".+:[0-9]+";
                  example = "0.0.0.0:8883";
                  description = "Address and port to listen on.";
                };
              }
            );
            default.devices.address = "0.0.0.0:8883";
            description = "Where devices connect, by a name of your choice.";
          };
          api = mkOption {
            type = types.submodule {
              freeformType = types.attrsOf types.anything;
              options.address = mkOption {
                type = types.nullOr (types.strMatching ".+:[0-9]+");
                default = "0.0.0.0:8443";
                description = "Where backends send commands, over HTTPS. Null turns it off.";
              };
            };
            default = { };
            description = "The API for backends.";
          };
          pki = mkOption {
            type = types.submodule {
              freeformType = types.attrsOf types.anything;
              options.hosts = mkOption {
                type = types.listOf types.str;
                default = [ ];
                example = [
                  "gateway.local"
                  "10.93.0.1"
                ];
                description = "Names and addresses the server certificate is made for, beside the machine's own.";
              };
            };
            default = { };
            description = "The gateway's own certificate authority.";
          };
        };
      };
      default = { };
      example = {
        limits.messages_per_second = 20;
        verification.require_v2 = true;
      };
      description = ''
        The daemon's configuration, key for key. The daemon itself checks it while the system is
        built: an unknown key or a value it would refuse stops the build, with the place and a remedy.
        `tidegate config show` prints everything that can be set.
      '';
    };

    devices = mkOption {
      type = types.attrsOf (types.submodule (import ./devices.nix { inherit lib ownTypes; }));
      default = { };
      example = {
        sensor_001 = {
          signing = "v2";
          secretFile = "/run/secrets/sensor_001";
        };
      };
      description = ''
        The devices that exist, by device id (1 to 64 of `A-Z a-z 0-9 _ -`). A changed list is taken up
        without a restart: new devices may connect, removed ones are disconnected.
      '';
    };

    upstreams = mkOption {
      type = types.attrsOf (types.submodule upstream);
      default = { };
      example = {
        backend = {
          url = "https://backend.example.com";
          bearerTokenFile = "/run/secrets/backend-token";
        };
      };
      description = "Who is owed every accepted message, by a name of your choice. Other keys go to the daemon as they are.";
    };

    masterKey = {
      file = mkOption {
        type = types.nullOr ownTypes.secretPath;
        default = null;
        example = "/run/secrets/tidegate-master-key";
        description = "File with the key that seals secrets at rest (32 bytes, as hex). Null: made at the first start.";
      };
      encryptedFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/var/lib/tidegate-master-key.cred";
        description = ''
          The same key as {manpage}`systemd-creds(1)` encrypted it, bound to the machine or its TPM:
          `systemd-creds encrypt --name=tidegate-master-key plain tidegate-master-key.cred`.
        '';
      };
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to open the ports of the listeners and of the API in NixOS's own firewall, on every
        interface. The appliance has a firewall of its own, by role.
      '';
    };

    memoryMax = mkOption {
      type = types.str;
      default = "1G";
      description = "Memory the daemon may use before it is ended and started again.";
    };

    commandLine = mkOption {
      type = types.package;
      default = commandLine;
      defaultText = lib.literalMD "made from the other options";
      readOnly = true;
      description = "`tidegate` as administrators get it: with this configuration, and as the service's user when root calls.";
    };

    configFile = mkOption {
      type = types.package;
      default = configFile;
      defaultText = lib.literalMD "made from the other options";
      readOnly = true;
      description = "The daemon's configuration as it will be read.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions =
      lib.mapAttrsToList (name: _: {
        assertion = ownTypes.isName name;
        message = "services.tidegate.devices.\"${name}\": a device id is 1 to 64 characters of A-Z a-z 0-9 _ -. Rename the attribute, and use the same id in the device's certificate.";
      }) cfg.devices
      ++ lib.mapAttrsToList (name: d: {
        assertion = d.signing != "none" || d.rendered ? publish || d.rendered ? subscribe;
        message = "services.tidegate.devices.${name} does not sign and has no topics, so it could do nothing. Give its sensors and actuators a topic (sensors.level.topic = \"…\"), or remove signing = \"none\".";
      }) cfg.devices
      ++ lib.mapAttrsToList (name: d: {
        assertion =
          d.signing == "none"
          || (d.telemetry == [ ] && d.commandTopic == null && !d.rendered ? command_topic);
        message = "services.tidegate.devices.${name}: `telemetry` and `commandTopic` are for devices that do not sign; one that signs has device/${name}/data and device/${name}/command. Remove them, or set signing = \"none\".";
      }) cfg.devices
      ++ [
        {
          assertion = !cfg.settings ? devices;
          message = "services.tidegate.settings.devices is not used. Write services.tidegate.devices.<id> instead, which checks what it is given.";
        }
        {
          assertion = cfg.masterKey.file == null || cfg.masterKey.encryptedFile == null;
          message = "services.tidegate.masterKey has both `file` and `encryptedFile`. Keep the one that holds the key in force and remove the other.";
        }
        {
          assertion = !cfg.settings ? master_key_file;
          message = "services.tidegate.settings.master_key_file would be read by the daemon's own user. Write services.tidegate.masterKey.file instead, which passes it as a systemd credential.";
        }
        {
          assertion =
            lib.intersectLists (lib.attrNames cfg.upstreams) (lib.attrNames (cfg.settings.upstreams or { }))
            == [ ];
          message = "The same upstream is in services.tidegate.upstreams and services.tidegate.settings.upstreams. Keep it in services.tidegate.upstreams.";
        }
      ];

    users.users.${cfg.user} = {
      isSystemUser = true;
      group = cfg.user;
      home = cfg.settings.state_dir;
      description = "Tidegate";
    };
    users.groups.${cfg.user} = { };

    environment.etc."tidegate/tidegate.toml".source = cfg.configFile;
    environment.systemPackages = [ cfg.commandLine ];

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall ports;

    systemd.services.tidegate = {
      description = "Tidegate, the gateway for devices";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # A changed device list is a reload; anything else the daemon reads once, at its start.
      reloadTriggers = [ cfg.configFile ];
      restartTriggers = [ (builtins.hashString "sha256" (toTOML withoutDevices)) ];
      # Restarts go on for ever, ever more slowly: a gateway that has given up helps nobody.
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig = import ./hardening.nix // {
        Type = "notify-reload";
        ExecStart = "${lib.getExe cfg.package} --config /etc/tidegate/tidegate.toml run";
        User = cfg.user;
        Group = cfg.user;
        StateDirectory = "tidegate";
        StateDirectoryMode = "0700";
        LoadCredential =
          lib.optional (cfg.masterKey.file != null) "tidegate-master-key:${cfg.masterKey.file}"
          ++ map (s: "${s.credential}:${s.path}") upstreamSecrets;
        LoadCredentialEncrypted = lib.optional (
          cfg.masterKey.encryptedFile != null
        ) "tidegate-master-key:${cfg.masterKey.encryptedFile}";

        WatchdogSec = "30s";
        # The first start makes keys; on a Pi 3 with an old card that takes its time.
        TimeoutStartSec = "3min";
        TimeoutStopSec = "30s";
        Restart = "always";
        RestartSec = "1s";
        RestartSteps = 6;
        RestartMaxDelaySec = "1min";

        MemoryMax = cfg.memoryMax;
        MemorySwapMax = 0;
        TasksMax = 1024;
        # One descriptor per session, and some.
        LimitNOFILE = 65536;
        OOMScoreAdjust = -500;
      };
    };
  };
}
