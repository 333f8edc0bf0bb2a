# What tests/run needs, with the compiler that rust-toolchain.toml names.
{
  mkShell,
  rust-bin,
  actionlint,
  cargo-deny,
  chrony,
  cmake,
  deadnix,
  espflash,
  mosquitto,
  nftables,
  nginx,
  nixfmt,
  nmap,
  openssl,
  qemu,
  statix,
}:
mkShell {
  packages = [
    ((rust-bin.fromRustupToolchainFile ../../rust-toolchain.toml).override {
      targets = [
        "riscv32imc-unknown-none-elf"
        "riscv32imac-unknown-none-elf"
      ];
      extensions = [
        "clippy"
        "rustfmt"
        "rust-src"
      ];
    })
    actionlint
    cargo-deny
    chrony
    cmake
    deadnix
    espflash
    mosquitto
    nftables
    nginx
    nixfmt
    nmap
    openssl
    qemu
    statix
  ];
}
