# A device downloads a release in pieces, with its certificate and not without.
{ machines, ... }:
{
  nodes = {
    inherit (machines)
      gateway
      outside
      device
      attacker
      ;
  };
  testScript = machines.prelude + ''
    issue("sensor_001", device)
    gateway.succeed("head -c 300000 /dev/urandom > /var/lib/tidegate-releases/app-1.2.3.bin")
    digest = gateway.succeed("sha256sum < /var/lib/tidegate-releases/app-1.2.3.bin")
    url = "https://gateway.local:8444/releases/app-1.2.3.bin"
    curl = "curl --silent --show-error --fail --cacert {0}/ca.crt --cert {0}/device.crt --key {0}/device.key".format("/root/bundles/sensor_001")
    for start in range(0, 300000, 65536):
        device.succeed(f"{curl} --range {start}-{min(start + 65535, 299999)} {url} >> app.bin")
    assert device.succeed("sha256sum < app.bin") == digest
    device.fail(f"{curl} --request PUT --data x {url}")
    code = attacker.succeed(f"curl --silent --insecure --output /dev/null --write-out '%{{http_code}}' {url}")
    assert code == "400", code
  '';
}
