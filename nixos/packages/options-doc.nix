# Every option of ours as Markdown, from the modules themselves.
{
  lib,
  pkgs,
  nixosOptionsDoc,
  runCommand,
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
  documentation = nixosOptionsDoc {
    options = { inherit (evaluated.options.services) tidegate; };
    # Links into the store would change with every commit and lead nowhere.
    transformOptions =
      option:
      option
      // {
        declarations = map (d: lib.removePrefix "${toString ../..}/" (toString d)) option.declarations;
      };
    warningsAreErrors = true;
  };
in
runCommand "tidegate-options" { } ''
  mkdir -p $out
  cp ${documentation.optionsCommonMark} $out/options.md
  cp ${documentation.optionsJSON}/share/doc/nixos/options.json $out/options.json
''
