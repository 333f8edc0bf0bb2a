# The gateway daemon, with the compiler of nixpkgs.
{
  lib,
  rustPlatform,
  cmake,
  installShellFiles,
  mosquitto,
  openssl,
  stdenv,
}:
rustPlatform.buildRustPackage {
  pname = "tidegate";
  inherit ((lib.importTOML ../../Cargo.toml).workspace.package) version;

  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../../Cargo.lock;
  cargoBuildFlags = [
    "--package"
    "tidegate"
  ];

  # aws-lc is C and assembly, built by its crate; SQLite is built by libsqlite3-sys.
  nativeBuildInputs = [
    cmake
    installShellFiles
  ];
  dontUseCmakeConfigure = true;

  # The stories start the daemon on loopback and talk to it with other people's clients.
  nativeCheckInputs = [
    mosquitto
    openssl
  ];
  cargoTestFlags = [
    "--package"
    "tidegate"
    "--package"
    "tidegate-wire"
    "--package"
    "tidegate-mqtt"
  ];
  __darwinAllowLocalNetworking = true;

  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd tidegate \
      --bash <($out/bin/tidegate completions bash) \
      --fish <($out/bin/tidegate completions fish) \
      --zsh <($out/bin/tidegate completions zsh)
  '';

  meta = {
    description = "A secure IoT gateway: MQTT over mutual TLS in, verified and durable, HTTP out";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "tidegate";
    platforms = lib.platforms.linux;
  };
}
