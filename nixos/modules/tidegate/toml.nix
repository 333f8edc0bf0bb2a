# Values as TOML text, at evaluation time: a generator of nixpkgs would need a build before anybody
# could see (or compare, or check) what the daemon will read.
{ lib }:
let
  inherit (lib)
    concatMapStringsSep
    concatStringsSep
    filterAttrs
    isAttrs
    mapAttrsToList
    optional
    ;

  # A TOML basic string takes the escapes of JSON. Nix has none that TOML lacks.
  string = builtins.toJSON;
  key = name: if builtins.match "[A-Za-z0-9_-]+" name != null then name else string name;

  value =
    v:
    if builtins.isString v || builtins.isPath v then
      string (toString v)
    else if builtins.isBool v then
      lib.boolToString v
    else if builtins.isInt v || builtins.isFloat v then
      builtins.toJSON v
    else if builtins.isList v then
      "[${concatMapStringsSep ", " value v}]"
    else if isAttrs v then
      "{ ${concatStringsSep ", " (mapAttrsToList (n: x: "${key n} = ${value x}") v)} }"
    else
      throw "TOML has no ${builtins.typeOf v}";

  table =
    path: set:
    let
      present = filterAttrs (_: v: v != null) set;
      lines = mapAttrsToList (n: v: "${key n} = ${value v}") (filterAttrs (_: v: !isAttrs v) present);
      tables = mapAttrsToList (n: table (path ++ [ n ])) (filterAttrs (_: isAttrs) present);
      header =
        optional (path != [ ] && (lines != [ ] || tables == [ ]))
          "[${concatMapStringsSep "." key path}]";
      own = concatStringsSep "\n" (header ++ lines);
    in
    concatStringsSep "\n\n" (optional (own != "") own ++ tables);
in
set: table [ ] set + "\n"
