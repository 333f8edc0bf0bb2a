# Espressif's Rust compiler and linker for its Xtensa chips, as released. Upstream Rust has no
# Xtensa code generator in its releases; for the RISC-V chips nothing of this is needed.
#
# The hashes are those of the unpacked archives.
{
  lib,
  stdenv,
  autoPatchelfHook,
  fetchzip,
  zlib,
}:
let
  version = "1.95.0.0";
  gccVersion = "15.2.0_20251204";
  releases = {
    x86_64-linux = {
      rust = "x86_64-unknown-linux-gnu";
      rustHash = "sha256-3wpKYEA9i9+/6OkzuBjFD7MSufN8ZCgBmUNdB2LeprI=";
      gcc = "x86_64-linux-gnu";
      gccHash = "sha256-f2zKqpgdYqKRwvgFsPGrG4jiborzjam5aOPGqso0Lqg=";
    };
    aarch64-linux = {
      rust = "aarch64-unknown-linux-gnu";
      rustHash = "sha256-VNfHp3+0dhhlxEcjA/zV+J3AnioLNxWsm9rOJg+POFA=";
      gcc = "aarch64-linux-gnu";
      gccHash = "sha256-Mpym5XKjjDdbJA78y58ilfJG5Kkn7x9C3FhP1pXbr5k=";
    };
  };
  release =
    releases.${stdenv.hostPlatform.system}
      or (throw "Espressif's compiler is not packaged for ${stdenv.hostPlatform.system}; build the firmware on one of ${lib.concatStringsSep ", " (lib.attrNames releases)}");
  rustBuild = "https://github.com/esp-rs/rust-build/releases/download/v${version}";

  source = fetchzip {
    url = "${rustBuild}/rust-src-${version}.tar.xz";
    hash = "sha256-mUpucCIRJxgFWiW5HlT95ZKvA+u4+T5CvEfgoQZoNOA=";
  };
  gcc = fetchzip {
    url = "https://github.com/espressif/crosstool-NG/releases/download/esp-${gccVersion}/xtensa-esp-elf-${gccVersion}-${release.gcc}.tar.xz";
    hash = release.gccHash;
  };
in
stdenv.mkDerivation {
  pname = "esp-toolchain";
  inherit version;

  src = fetchzip {
    url = "${rustBuild}/rust-${version}-${release.rust}.tar.xz";
    hash = release.rustHash;
  };

  nativeBuildInputs = [ autoPatchelfHook ];
  buildInputs = [
    stdenv.cc.cc.lib
    zlib
  ];
  # The debugger links Python versions of other systems; we do not use it.
  autoPatchelfIgnoreMissingDeps = [ "libpython3.*" ];
  # Target libraries are for the chip: the host's strip would break them.
  dontStrip = true;

  installPhase = ''
    runHook preInstall
    patchShebangs install.sh
    ./install.sh --destdir=$out --prefix= --disable-ldconfig --without=rust-docs,rust-docs-json-preview
    mkdir -p $out/lib/rustlib
    cp -r ${source}/rust-src/lib/rustlib/src $out/lib/rustlib/src
    cp -r --no-preserve=mode,ownership ${gcc}/. $out/
    cp -r ${gcc}/bin/. $out/bin/
    runHook postInstall
  '';

  passthru = {
    inherit releases;
    # What buildRustPackage asks of a compiler. Its own targets are no platforms of nixpkgs.
    targetPlatforms = lib.platforms.all;
    badTargetPlatforms = [ ];
  };

  meta = {
    description = "Rust and GCC for Espressif's Xtensa chips";
    homepage = "https://github.com/esp-rs/rust-build";
    license = with lib.licenses; [
      mit
      asl20
      gpl3Plus
    ];
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = lib.attrNames releases;
  };
}
