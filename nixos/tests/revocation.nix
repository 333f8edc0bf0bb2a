# A revoked device is out within seconds: on MQTT, and on the update server.
{ machines, ... }:
{
  nodes = {
    inherit (machines) gateway outside device;
  };
  testScript = machines.prelude + ''
    issue("sensor_001", device)
    issue("sensor_002", device)
    gateway.succeed("echo firmware > /var/lib/tidegate-releases/app.bin")


    def download(device_id):
        bundle = f"/root/bundles/{device_id}"
        return device.succeed(f"curl --silent --cacert {bundle}/ca.crt --cert {bundle}/device.crt --key {bundle}/device.key --output /dev/null --write-out '%{{http_code}}' https://gateway.local:8444/releases/app.bin")


    assert download("sensor_002") == "200"
    device.execute("device-sub sensor_002 -t device/sensor_002/response >/dev/null 2>&1 &")
    gateway.wait_until_succeeds("tidegate --json status | grep -E '\"connected\": ?1'")
    gateway.succeed("tidegate pki revoke sensor_002 --reason key-compromise")
    gateway.wait_until_succeeds("tidegate --json status | grep -E '\"connected\": ?0'", timeout=10)
    device.fail("device-pub sensor_002 -t device/sensor_002/data -m x")
    device.wait_until_succeeds("test $(curl --silent --cacert /root/bundles/sensor_002/ca.crt --cert /root/bundles/sensor_002/device.crt --key /root/bundles/sensor_002/device.key --output /dev/null --write-out '%{http_code}' https://gateway.local:8444/releases/app.bin) = 400", timeout=30)
    assert download("sensor_001") == "200"
    publish(device, "sensor_001", signed(device, "sensor_001", '{"n":"still here"}'))
    wait_delivered("still here")
  '';
}
