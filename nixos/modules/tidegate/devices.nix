# One device of `services.tidegate.devices`.
{ lib, ownTypes }:
let
  inherit (lib) mkOption types;

  # What a sensor or an actuator is called, and for a device that does not sign, its topic.
  part =
    topicDescription:
    types.submodule {
      options = {
        description = mkOption {
          type = types.str;
          default = "";
          example = "Water level behind the gate, in centimetres";
          description = "What it is, for people.";
        };
        topic = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "sensors/led/set";
          description = topicDescription;
        };
      };
    };
in
{ name, config, ... }:
{
  options = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the device may connect. A disabled device stays known, and is disconnected at once.";
    };
    signing = mkOption {
      type = types.enum [
        "any"
        "v2"
        "none"
      ];
      default = "any";
      description = ''
        What its messages must carry: a signature of either version (`any`), one of version 2
        (`v2`), or none (`none`, for devices that publish raw values on topics of their own).
      '';
    };
    secretFile = mkOption {
      type = types.nullOr ownTypes.secretPath;
      default = null;
      example = "/run/secrets/sensor_001";
      description = ''
        File with the device's shared secret, readable by the user `tidegate`. It is read again at every
        reload, so that adding a device restarts nothing. Null: the secret that was made when its
        bundle was issued (`tidegate pki issue device ${name}`).
      '';
    };
    passwordFile = mkOption {
      type = types.nullOr ownTypes.secretPath;
      default = null;
      example = "/run/secrets/sensor_001-password";
      description = ''
        File with its password, readable by the user `tidegate`, for listeners that do not ask for
        a client certificate.
      '';
    };
    sensors = mkOption {
      type = types.attrsOf (
        part "For a device with `signing = \"none\"`: the topic its readings arrive on."
      );
      default = { };
      example = {
        temperature.description = "Air, in degrees Celsius";
      };
      description = "What it measures. With topics, they are what it may publish, and are telemetry.";
    };
    actuators = mkOption {
      type = types.attrsOf (
        part "For a device with `signing = \"none\"`: the topic it takes commands on."
      );
      default = { };
      example = {
        led.topic = "sensors/led/set";
      };
      description = "What it moves or switches. With topics, they are what it may subscribe to.";
    };
    groups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "greenhouse" ];
      description = "Groups it belongs to, for rollouts and for people.";
    };
    messagesPerSecond = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      description = "Messages per second it may send. Null: {option}`services.tidegate.settings.limits.messages_per_second`.";
    };
    publish = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Free topics it may publish to, as MQTT filters, beside its contract topics.";
    };
    subscribe = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Free topics it may subscribe to, as MQTT filters, beside its contract topics.";
    };
    telemetry = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "For a device that does not sign: free topics whose messages go to the upstreams.";
    };
    commandTopic = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "For a device that does not sign: the topic commands are published on. Null: that of its only actuator.";
    };
    rendered = mkOption {
      type = types.attrsOf types.anything;
      internal = true;
      readOnly = true;
      description = "The device as the daemon reads it.";
    };
  };

  config.rendered =
    let
      topics = parts: lib.filter (t: t != null) (lib.mapAttrsToList (_: p: p.topic) parts);
      readings = topics config.sensors;
      orders = topics config.actuators;
      set = lib.filterAttrs (_: v: v != null && v != [ ]);
    in
    {
      enabled = config.enable;
      inherit (config) signing;
    }
    // set {
      secret_file = config.secretFile;
      password_file = config.passwordFile;
      messages_per_second = config.messagesPerSecond;
      publish = config.publish ++ readings;
      subscribe = config.subscribe ++ orders;
      telemetry = config.telemetry ++ readings;
      command_topic =
        if config.commandTopic != null then
          config.commandTopic
        else if config.signing == "none" && lib.length orders == 1 then
          lib.head orders
        else
          null;
      inherit (config) groups;
    };
}
