# What `nix run .#<name>` starts.
{
  lib,
  pkgs,
  vm,
  image,
}:
let
  app = description: package: {
    type = "app";
    program = lib.getExe package;
    meta = { inherit description; };
  };
  script =
    name: runtimeInputs: text:
    pkgs.writeShellApplication { inherit name runtimeInputs text; };
in
{
  default = app "The gateway's own command line" pkgs.tidegate;

  demo = app "A gateway, a backend and devices in one process, nothing to configure" (
    script "tidegate-demo" [ pkgs.tidegate ] ''exec tidegate demo "$@"''
  );

  flash-esp32 =
    app "Build the firmware, provision a device's credentials, flash and monitor a board"
      (
        script "flash-esp32" [
          pkgs.espflash
          pkgs.nix
          pkgs.tidegate
          pkgs.tidegate-box
        ] ''exec tidegate-box flash-esp32 --flake ${../..} "$@"''
      );

  flash-sd = app "Write the gateway's image to an SD card" (
    script "flash-sd" [
      pkgs.tidegate-box
      pkgs.zstd
    ] ''exec tidegate-box flash-sd --image "$(echo ${image}/sd-image/*)" "$@"''
  );

  deploy = app "Switch a running gateway to this configuration over ssh: deploy admin@gateway.local" (
    script "tidegate-deploy" [ pkgs.nixos-rebuild-ng ] ''
      target=''${1:?whom to deploy to, such as admin@gateway.local}
      shift
      exec nixos-rebuild switch --flake "''${TIDEGATE_FLAKE:-.}#''${TIDEGATE_HOST:-gateway}" --target-host "$target" --sudo "$@"
    ''
  );

  vm = app "The box in QEMU" vm.config.system.build.vm;
}
