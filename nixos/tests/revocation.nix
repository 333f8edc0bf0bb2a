# A revoked device is out within seconds: on MQTT, and on the update server.
{ machines, ... }:
{
  nodes = {
    inherit (machines) gateway outside device;
  };
  testScript = machines.prelude + ''
    issue("sensor_001", device)
    issue("sensor_002", device)
    offer_release(device, "firmware")
    assert updates(device, "sensor_002") == "200"
    device.execute("device-sub sensor_002 -t device/sensor_002/response >/dev/null 2>&1 &")
    gateway.wait_until_succeeds("tidegate --json status | grep -E '\"connected\": ?1'")
    gateway.succeed("tidegate pki revoke sensor_002 --reason key-compromise")
    gateway.wait_until_succeeds("tidegate --json status | grep -E '\"connected\": ?0'", timeout=10)
    device.fail("device-pub sensor_002 -t device/sensor_002/data -m x")
    # The gateway says so at once, whatever nginx has heard of it.
    assert updates(device, "sensor_002") == "403"
    gateway.wait_until_succeeds("cmp /var/lib/tidegate/pki/crl.pem /run/tidegate-tls/crl.pem", timeout=60)
    assert updates(device, "sensor_001") == "200"
    assert updates(device, "sensor_002") == "403"
    publish(device, "sensor_001", signed(device, "sensor_001", '{"n":"still here"}'))
    wait_delivered("still here")
  '';
}
