# What tests/run needs, with the compiler that rust-toolchain.toml names.
{
  mkShell,
  rust-bin,
  actionlint,
  cargo-deny,
  cargo-fuzz,
  cargo-nextest,
  chrony,
  cmake,
  curl,
  deadnix,
  debootstrap,
  e2fsprogs,
  espflash,
  mosquitto,
  nftables,
  nginx,
  nixfmt,
  nmap,
  openssl,
  pkgsCross,
  python3,
  qemu,
  rustup,
  statix,
  unixtools,
}:
mkShell {
  packages = [
    ((rust-bin.fromRustupToolchainFile ../../rust-toolchain.toml).override {
      targets = [
        "riscv32imc-unknown-none-elf"
        "riscv32imac-unknown-none-elf"
        "aarch64-unknown-linux-gnu"
      ];
      extensions = [
        "clippy"
        "rustfmt"
        "rust-src"
      ];
    })
    actionlint
    cargo-deny
    cargo-fuzz
    cargo-nextest
    chrony
    cmake
    curl
    deadnix
    debootstrap
    e2fsprogs
    espflash
    mosquitto
    nftables
    nginx
    nixfmt
    nmap
    openssl
    pkgsCross.aarch64-multiplatform.stdenv.cc
    python3
    qemu
    # For the targets that steps add; the compiler above comes first.
    rustup
    statix
    unixtools.xxd
  ];
}
