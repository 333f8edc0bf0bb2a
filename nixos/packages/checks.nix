# What `nix flake check` builds beside the VM tests: the packages, and every lint.
{
  lib,
  pkgs,
  self,
}:
let
  inherit (pkgs) tidegate;
  lint =
    name: inputs: command:
    pkgs.runCommand "check-${name}" { nativeBuildInputs = inputs; } ''
      cd ${self}
      ${command}
      touch $out
    '';
  cargo =
    name: inputs: command:
    tidegate.overrideAttrs (former: {
      name = "check-${name}";
      nativeBuildInputs = former.nativeBuildInputs ++ inputs;
      buildPhase = command;
      doCheck = false;
      installPhase = "touch $out";
      postInstall = "";
    });
  # Evaluated here, so that a configuration that should be refused and is not fails the check.
  unexpected = lib.filterAttrs (_: mistake: mistake.outcome != "refused") self.mistakes;
in
{
  inherit tidegate;
  inherit (pkgs) tidegate-box tidegate-firmware-esp32c3 tidegate-firmware-esp32c6;
  clippy = cargo "clippy" [
    pkgs.clippy
  ] "cargo clippy --offline --workspace --all-targets -- -D warnings";
  fmt = cargo "fmt" [ pkgs.rustfmt ] "cargo fmt --all --check";
  deny = cargo "deny" [ pkgs.cargo-deny ] "cargo deny --offline check bans licenses sources";
  nixfmt = lint "nixfmt" [ pkgs.nixfmt ] "nixfmt --check $(find flake.nix nixos -name '*.nix')";
  statix =
    lint "statix" [ pkgs.statix ]
      "statix check --config nixos/statix.toml nixos && statix check --config nixos/statix.toml flake.nix";
  deadnix = lint "deadnix" [ pkgs.deadnix ] "deadnix --fail flake.nix nixos";
  actionlint = lint "actionlint" [ pkgs.actionlint ] "actionlint .github/workflows/*.yml";
  mistakes =
    assert lib.assertMsg (
      unexpected == { }
    ) "these configurations should be refused: ${lib.concatStringsSep ", " (lib.attrNames unexpected)}";
    pkgs.writeText "mistakes-are-refused" (lib.concatStringsSep "\n" (lib.attrNames self.mistakes));
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) options-doc;
}
