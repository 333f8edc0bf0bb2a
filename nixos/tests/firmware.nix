# A device asks for an update and downloads it in pieces, with its certificate and not without.
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
    content = "firmware" * 8000
    digest = offer_release(device, content)
    curl = as_device("sensor_001")
    signed_manifest = json.loads(device.succeed(f"{curl} --fail {asks_for_update}"))
    assert signed_manifest["manifest"]["sha256"] == digest, signed_manifest
    assert signed_manifest["manifest"]["size"] == len(content), signed_manifest
    url = f"https://gateway.local:8444/v1/image/{digest}"
    for start in range(0, len(content), 16384):
        device.succeed(f"{curl} --fail --range {start}-{min(start + 16383, len(content) - 1)} {url} >> app.bin")
    assert device.succeed("sha256sum < app.bin").split()[0] == digest


    def code(machine, command, url):
        return machine.succeed(f"{command} --path-as-is --output /dev/null --write-out '%{{http_code}}' {url}")


    assert code(device, f"{curl} --request PUT --data x", url) == "403"
    # What nginx has on disk is sent when the gateway says so, and not when a device does.
    for path in [f"_images/{digest}", f"v1/../_images/{digest}", f"v1/image/{'0' * 64}", "releases/app.bin", ""]:
        assert code(device, curl, f"https://gateway.local:8444/{path}") == "404", path
    assert code(attacker, "curl --silent --insecure", url) == "403"
    # The socket believes nginx about whom it speaks for, so nobody else may open it.
    gateway.fail("setpriv --reuid=nobody --regid=nogroup --clear-groups curl --silent --unix-socket /run/tidegate-updates/socket http://gateway/v1/update")
    gateway.succeed("setpriv --reuid=nginx --regid=nginx --clear-groups curl --silent --unix-socket /run/tidegate-updates/socket http://gateway/v1/update")
  '';
}
