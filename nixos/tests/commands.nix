# A backend with a key commands a device; one without does not.
{ machines, ... }:
{
  nodes = {
    inherit (machines) gateway outside device;
  };
  testScript = machines.prelude + ''
    issue("sensor_001", device)
    subscribe(device, "sensor_001")
    ca = gateway.succeed("base64 -w0 /var/lib/tidegate/pki/root.crt").strip()
    outside.succeed(f"echo {ca} | base64 -d > ca.crt")
    token = json.loads(gateway.succeed("tidegate --json key create backend --scope command:send --scope command:read"))["token"]
    send = "curl --silent --cacert ca.crt https://gateway.local:8443/command/sensor_001 --data '{\"led\":80}'"
    answer = json.loads(outside.succeed(f"{send} --header 'Authorization: Bearer {token}'"))
    assert answer["status"] == "queued", answer
    (command,) = collect(device, "sensor_001")
    assert json.loads(command)["payload"] == {"led": 80}, command
    assert json.loads(command)["device_id"] == "sensor_001", command
    for header in ["X-Nothing: 1", "Authorization: Bearer wrong"]:
        code = outside.succeed(f"{send} --header '{header}' --output /dev/null --write-out '%{{http_code}}'")
        assert code == "401", code
  '';
}
