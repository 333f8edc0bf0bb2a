# The firmware for one chip, as an ELF file for espflash. RISC-V chips take upstream's compiler (from
# rust-overlay, with the target's core library); Xtensa chips take Espressif's and build the core
# library on the way.
{
  lib,
  makeRustPlatform,
  rust-bin,
  esp-toolchain,
  symlinkJoin,
  chip,
}:
let
  chips = {
    esp32 = "xtensa-esp32-none-elf";
    esp32s3 = "xtensa-esp32s3-none-elf";
    esp32c3 = "riscv32imc-unknown-none-elf";
    esp32c6 = "riscv32imac-unknown-none-elf";
  };
  target = chips.${chip};
  xtensa = lib.hasPrefix "xtensa" target;
  inherit ((lib.importTOML ../../rust-toolchain.toml).toolchain) channel;

  toolchain =
    if xtensa then
      esp-toolchain
    else
      rust-bin.stable.${channel}.minimal.override { targets = [ target ]; };
  rustPlatform = makeRustPlatform {
    cargo = toolchain;
    rustc = toolchain;
  };

  vendored = lockFile: rustPlatform.importCargoLock { inherit lockFile; };
  # -Z build-std resolves the standard library's own workspace, whose lock file is in a compiler
  # that evaluation must not have to fetch; this is a copy of it.
  cargoDeps =
    if xtensa then
      symlinkJoin {
        name = "cargo-vendor-dir";
        paths = [
          (vendored ../../firmware/Cargo.lock)
          (vendored ./std-${channel}.lock)
        ];
      }
    else
      vendored ../../firmware/Cargo.lock;
in
rustPlatform.buildRustPackage {
  pname = "tidegate-firmware-${chip}";
  inherit ((lib.importTOML ../../firmware/Cargo.toml).workspace.package) version;

  # The firmware is a workspace of its own that shares two crates with the gateway.
  src = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [
      ../../Cargo.toml
      ../../firmware
      ../../src/wire
      ../../src/mqtt
    ];
  };
  sourceRoot = "source/firmware";
  inherit cargoDeps;

  # Not a platform of nixpkgs: the target is cargo's business, the linker comes with the compiler.
  buildPhase = ''
    runHook preBuild
    cargo build --release --offline --package tidegate-esp32 --target ${target} \
      --no-default-features --features ${chip} ${lib.optionalString xtensa "-Z build-std=core,alloc"}
    runHook postBuild
  '';
  installPhase = ''
    runHook preInstall
    install -D target/${target}/release/tidegate-esp32 $out/tidegate-${chip}.elf
    runHook postInstall
  '';
  doCheck = false;
  dontStrip = true;
  dontFixup = true;

  passthru = { inherit chip target; };

  meta = {
    description = "Tidegate's firmware for ${chip}";
    license = with lib.licenses; [
      mit
      asl20
    ];
    platforms = lib.platforms.linux;
  };
}
