# An update under which the gateway does not become healthy takes itself back.
{
  machines,
  lib,
  ...
}:
{
  nodes = {
    inherit (machines) outside;
    gateway = {
      imports = [ machines.gateway ];
      services.tidegate.appliance.health = {
        within = lib.mkForce 40;
        steady = lib.mkForce 5;
      };
      system.switch.enable = true;
      specialisation.broken.configuration.systemd.services.tidegate.serviceConfig.ExecStart =
        lib.mkForce "/run/current-system/sw/bin/false";
    };
  };
  testScript = machines.prelude + ''
    gateway.wait_until_succeeds("test -e /nix/var/nix/gcroots/tidegate-good", timeout=120)
    good = gateway.succeed("readlink -f /nix/var/nix/gcroots/tidegate-good").strip()
    assert good == gateway.succeed("readlink -f /run/current-system").strip()
    gateway.execute("/run/current-system/specialisation/broken/bin/switch-to-configuration test")
    assert good != gateway.succeed("readlink -f /run/current-system").strip()
    gateway.wait_until_succeeds(f"test $(readlink -f /run/current-system) = {good}", timeout=180)
    gateway.wait_for_unit("tidegate.service")
    gateway.succeed(f"grep -F {good} /var/lib/tidegate-health/returns")
  '';
}
