# Types of the module's options.
{ lib }:
let
  inherit (lib) types;
in
{
  /**
    A path to a secret, read by the service when it starts and never by Nix. What is in the store is
    readable by everybody on the machine, and in every binary cache, for ever.
  */
  secretPath = lib.mkOptionType {
    name = "secretPath";
    description = "absolute path to a secret outside the Nix store, as a string";
    descriptionClass = "noun";
    check = value: builtins.isPath value || builtins.isString value;
    merge =
      loc: definitions:
      let
        value = lib.mergeEqualOption loc definitions;
        text = toString value;
        refuse =
          why:
          throw "The option `${lib.showOption loc}` ${why}. Write the path of a file on the machine, as a string: \"/run/secrets/${lib.last loc}\" (sops-nix and agenix make such files).";
      in
      if builtins.isPath value then
        refuse "is a Nix path (${text}), which evaluation copies into the world-readable Nix store"
      else if lib.hasPrefix builtins.storeDir text || builtins.hasContext text then
        refuse "points into the Nix store, which every user of the machine can read"
      else if !lib.hasPrefix "/" text then
        refuse "is \"${text}\", which is no absolute path (if that is the secret itself, it is now in the store: change it)"
      else
        text;
  };

  /**
    A duration as the daemon reads it.
  */
  duration =
    types.strMatching "[0-9]+ ?(ms|s|sec|min|m|h|hours?|days?|d|w)( ?[0-9]+ ?(ms|s|sec|min|m|h|hours?|days?|d))*"
    // {
      description = "duration such as \"500ms\", \"10s\", \"5min\" or \"7d\"";
    };

  /**
    Identifiers of devices, upstreams and listeners: what the protocol allows.
  */
  isName = name: builtins.match "[A-Za-z0-9_-]{1,64}" name != null;
}
