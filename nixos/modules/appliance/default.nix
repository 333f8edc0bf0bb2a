# services.tidegate.appliance: a whole machine that is the gateway and nothing else.
{ config, lib, ... }:
let
  inherit (lib) mkEnableOption mkOption types;
  cfg = config.services.tidegate.appliance;
in
{
  imports = [
    ./access-point.nix
    ./backup.nix
    ./dashboards.nix
    ./firewall.nix
    ./first-boot.nix
    ./health.nix
    ./network.nix
    ./storage.nix
    ./time.nix
    ./updates.nix
    ./web.nix
  ];

  options.services.tidegate.appliance = {
    enable = mkEnableOption "the Tidegate appliance: the gateway with its network, firewall, time service, updates and backups";

    ssh.authorizedKeys = mkOption {
      type = types.listOf types.singleLineStr;
      default = [ ];
      example = [ "ssh-ed25519 AAAA… me@laptop" ];
      description = "Keys that may log in as `admin` over the management network. Without any, ssh is off.";
    };
  };

  config = lib.mkIf cfg.enable {
    services.tidegate = {
      enable = true;
      settings = {
        pki.hosts = [
          config.networking.hostName
          "${config.networking.hostName}.local"
        ]
        ++ lib.optional (cfg.network.devices.address != null) cfg.network.devices.address;
        # A card is slow to commit and wears with every write: a little company for each message.
        storage.commit_delay = lib.mkDefault "5ms";
      };
    };

    # Nobody has a password. The console is in the browser, the shell behind an ssh key.
    users.mutableUsers = false;
    users.users.admin = lib.mkIf (cfg.ssh.authorizedKeys != [ ]) {
      isNormalUser = true;
      extraGroups = [ "wheel" ];
      openssh.authorizedKeys.keys = cfg.ssh.authorizedKeys;
    };
    users.allowNoPasswordLogin = true;
    security.sudo.enable = false;
    security.polkit.enable = true;
    security.polkit.extraConfig = ''
      // run0 in place of sudo: who holds the key may administer the box.
      polkit.addRule(function(action, subject) {
        if (subject.isInGroup("wheel") && action.id.indexOf("org.freedesktop.systemd1.") === 0) {
          return polkit.Result.YES;
        }
      });
    '';

    services.openssh = lib.mkIf (cfg.ssh.authorizedKeys != [ ]) {
      enable = true;
      openFirewall = false;
      settings = {
        PasswordAuthentication = false;
        KbdInteractiveAuthentication = false;
        PermitRootLogin = "no";
        AllowUsers = [ "admin" ];
        X11Forwarding = false;
        MaxAuthTries = 3;
      };
    };

    nix.settings = {
      experimental-features = [
        "nix-command"
        "flakes"
      ];
      trusted-users = [ "@wheel" ];
    };
    nix.gc = {
      automatic = true;
      dates = "weekly";
      options = "--delete-older-than 30d";
    };

    documentation.nixos.enable = false;
    environment.defaultPackages = [ ];
    boot.kernel.sysctl = {
      "kernel.dmesg_restrict" = 1;
      "kernel.kptr_restrict" = 2;
      "kernel.unprivileged_bpf_disabled" = 1;
      "net.core.bpf_jit_harden" = 2;
      "kernel.panic" = 10;
      "kernel.panic_on_oops" = 1;
    };
    # The board's own watchdog, for when the kernel hangs.
    systemd.settings.Manager = {
      RuntimeWatchdogSec = "15s";
      RebootWatchdogSec = "2min";
    };
  };
}
