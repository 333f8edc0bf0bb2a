# Every option of ours as Markdown, from the modules themselves.
{
  lib,
  pkgs,
  nixosOptionsDoc,
  runCommand,
  modules,
}:
let
  documentation = nixosOptionsDoc {
    options = import ./options.nix { inherit lib pkgs modules; };
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
