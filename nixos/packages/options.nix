# The options of ours, as the modules declare them: for their documentation.
{
  lib,
  pkgs,
  modules,
}:
let
  evaluated = lib.evalModules {
    modules = modules ++ [
      {
        _module.check = false;
        _module.args = { inherit pkgs; };
      }
    ];
    specialArgs.modulesPath = "${pkgs.path}/nixos/modules";
  };
in
{
  inherit (evaluated.options.services) tidegate;
}
