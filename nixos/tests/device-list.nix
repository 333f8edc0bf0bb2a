# nixos-rebuild with another device list: one goes, one comes, the daemon stays.
{ machines, lib, ... }:
{
  nodes = {
    inherit (machines) outside device;
    gateway = {
      imports = [ machines.gateway ];
      specialisation.changed.configuration.services.tidegate.devices = {
        sensor_002.enable = lib.mkForce false;
        sensor_003 = { };
      };
    };
  };
  testScript = machines.prelude + ''
    issue("sensor_001", device)
    issue("sensor_002", device)
    pid = gateway.succeed("systemctl show tidegate.service --property MainPID --value")
    device.execute("device-sub sensor_002 -t device/sensor_002/response >/dev/null 2>&1 &")
    gateway.wait_until_succeeds("tidegate --json status | grep -E '\"connected\": ?1'")
    gateway.succeed("/run/current-system/specialisation/changed/bin/switch-to-configuration test")
    gateway.wait_until_succeeds("tidegate --json status | grep -E '\"connected\": ?0'", timeout=10)
    device.fail("device-pub sensor_002 -t device/sensor_002/data -m x")
    issue("sensor_003", device)
    publish(device, "sensor_003", signed(device, "sensor_003", '{"n":"new"}'))
    publish(device, "sensor_001", signed(device, "sensor_001", '{"n":"old"}'))
    wait_delivered("new")
    wait_delivered("old")
    assert pid == gateway.succeed("systemctl show tidegate.service --property MainPID --value")
  '';
}
