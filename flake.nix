{
  description = "Tidegate: a secure gateway for small devices, from the board to the box";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    rust-overlay = {
      url = "github:oxalica/rust-overlay";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      rust-overlay,
    }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      pkgsFor = lib.genAttrs systems (
        system:
        import nixpkgs {
          inherit system;
          overlays = [
            rust-overlay.overlays.default
            self.overlays.default
          ];
        }
      );
      forEach = f: lib.genAttrs systems (system: f pkgsFor.${system});
      host = modules: lib.nixosSystem { modules = [ self.nixosModules.appliance ] ++ modules; };
    in
    {
      overlays.default = import ./nixos/packages/overlay.nix;

      packages = forEach (
        pkgs:
        let
          # The image is always for the Pi; elsewhere it is cross-built.
          gateway = self.nixosConfigurations.gateway.extendModules {
            modules = [ { nixpkgs.buildPlatform = pkgs.stdenv.hostPlatform.system; } ];
          };
        in
        {
          inherit (pkgs)
            tidegate
            tidegate-box
            ;
          default = pkgs.tidegate;
          tidegate-aarch64 = pkgs.pkgsCross.aarch64-multiplatform.tidegate;
          firmware-esp32 = pkgs.tidegate-firmware-esp32;
          firmware-esp32c3 = pkgs.tidegate-firmware-esp32c3;
          firmware-esp32c6 = pkgs.tidegate-firmware-esp32c6;
          firmware-esp32s3 = pkgs.tidegate-firmware-esp32s3;
          sd-image = gateway.config.system.build.sdImage;
          options-doc = pkgs.callPackage ./nixos/packages/options-doc.nix {
            modules = [ self.nixosModules.appliance ];
          };
          sbom = pkgs.callPackage ./nixos/packages/sbom.nix {
            inherit (gateway.config.system.build) toplevel;
          };
        }
      );

      nixosModules = {
        default = {
          imports = [ ./nixos/modules/tidegate ];
          nixpkgs.overlays = [ self.overlays.default ];
        };
        # The firmware is not needed on the box, so neither is its compiler.
        appliance.imports = [
          self.nixosModules.default
          ./nixos/modules/appliance
        ];
      };

      nixosConfigurations = {
        gateway = host [ ./nixos/hosts/gateway.nix ];
        gateway-vm = host [ ./nixos/hosts/gateway-vm.nix ];
      };

      apps = forEach (
        pkgs:
        import ./nixos/packages/apps.nix {
          inherit lib pkgs;
          vm = self.nixosConfigurations.gateway-vm.extendModules {
            modules = [ { nixpkgs.hostPlatform = lib.mkForce pkgs.stdenv.hostPlatform.system; } ];
          };
          image = self.packages.${pkgs.stdenv.hostPlatform.system}.sd-image;
        }
      );

      checks = forEach (
        pkgs:
        import ./nixos/packages/checks.nix { inherit lib pkgs self; }
        // import ./nixos/tests {
          inherit lib pkgs;
          # Without the overlay, which these packages have: all machines of all tests share them, and
          # evaluating a dozen tests takes gigabytes less.
          module.imports = [
            ./nixos/modules/tidegate
            ./nixos/modules/appliance
          ];
        }
      );

      # What evaluation alone can tell: the files the box would run with, and what bad
      # configurations are answered with. Nothing here needs a build.
      rendered = import ./nixos/tests/rendered.nix {
        inherit lib;
        inherit (nixpkgs.lib) nixosSystem;
        module = self.nixosModules.appliance;
      };
      # Every option with its words, for nixos/OPTIONS.md.
      options = lib.filter (option: option.visible && !option.internal) (
        lib.optionAttrSetToDocList {
          services = import ./nixos/packages/options.nix {
            inherit lib;
            pkgs = pkgsFor.x86_64-linux;
            modules = [ self.nixosModules.appliance ];
          };
        }
      );
      mistakes = import ./nixos/tests/mistakes.nix {
        inherit lib;
        inherit (nixpkgs.lib) nixosSystem;
        module = self.nixosModules.appliance;
      };

      devShells = forEach (pkgs: {
        default = pkgs.callPackage ./nixos/packages/dev-shell.nix { };
      });

      formatter = forEach (pkgs: pkgs.nixfmt-tree);
    };
}
