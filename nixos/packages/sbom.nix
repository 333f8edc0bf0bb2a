# Bills of materials in CycloneDX: what the two Cargo workspaces link, and what the box's system
# closure holds.
{
  lib,
  cargo,
  cargo-cyclonedx,
  closureInfo,
  jq,
  rustPlatform,
  runCommand,
  toplevel,
}:
let
  source = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [
      ../../Cargo.toml
      ../../Cargo.lock
      ../../firmware
      ../../src
      ../../tests
      ../../nixos/box
    ];
  };
  workspace =
    name: folder: lockFile:
    runCommand "sbom-${name}"
      {
        nativeBuildInputs = [
          cargo
          cargo-cyclonedx
          rustPlatform.cargoSetupHook
        ];
        cargoDeps = rustPlatform.importCargoLock { inherit lockFile; };
        src = source;
      }
      ''
        runPhase unpackPhase
        cd ${folder}
        cargoSetupPostUnpackHook
        cargo cyclonedx --format json --spec-version 1.5 --all --override-filename sbom
        mkdir -p $out
        find . -name sbom.json | while read -r file; do
          install -D "$file" "$out/${name}$(dirname "''${file#.}").cdx.json"
        done
      '';
in
runCommand "tidegate-sbom"
  {
    nativeBuildInputs = [ jq ];
    closure = closureInfo { rootPaths = [ toplevel ]; };
  }
  ''
    mkdir -p $out
    cp -r ${workspace "gateway" "." ../../Cargo.lock}/. $out/
    cp -r ${workspace "firmware" "firmware" ../../firmware/Cargo.lock}/. $out/
    jq --raw-input --slurp '{
      bomFormat: "CycloneDX",
      specVersion: "1.5",
      version: 1,
      metadata: { component: { type: "operating-system", name: "tidegate-gateway" } },
      components: [
        split("\n")[] | select(length > 0) | ltrimstr("/nix/store/") |
        capture("^(?<hash>[0-9a-z]{32})-(?<name>.*?)(-(?<version>[0-9][^-]*(-[^-]+)?))?$") |
        { type: "application", "bom-ref": .hash, name: .name, version: (.version // ""),
          properties: [ { name: "nix:store-hash", value: .hash } ] }
      ]
    }' "$closure/store-paths" > $out/system.cdx.json
  ''
