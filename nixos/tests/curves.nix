# A reading becomes a point in the box's own database, at the time the device signed it, and Grafana
# can ask for it.
{
  lib,
  machines,
  pkgs,
  ...
}:
{
  nodes = {
    inherit (machines) outside device;
    gateway = {
      imports = [ machines.gateway ];
      services.tidegate.appliance.dashboards.enable = true;
      virtualisation.memorySize = lib.mkForce 3072;
      environment.systemPackages = [ pkgs.jq ];
    };
  };
  testScript = machines.prelude + ''
    for unit in ["influxdb2", "telegraf", "grafana"]:
        gateway.wait_for_unit(f"{unit}.service")
    gateway.wait_for_open_port(8186)
    issue("sensor_001", device)
    message = signed(device, "sensor_001", '{"temperature":22.5,"note":"no number"}', "--age 30")
    publish(device, "sensor_001", message)
    # Nothing to draw, and nothing to try again.
    publish(device, "sensor_001", signed(device, "sensor_001", '["x"]'))

    signed_at = json.loads(message)["timestamp"]
    flux = 'from(bucket:"devices") |> range(start:-1h) |> filter(fn:(r) => r.device == "sensor_001" and r._field == "temperature") |> map(fn:(r) => ({r with seconds: int(v: r._time) / 1000000000}))'
    gateway.succeed(f"cat > /tmp/query << 'END'\n{flux}\nEND")
    influx = "curl --silent --fail --header \"Authorization: Token $(cat /var/lib/tidegate-box/influxdb-token)\" --header 'Content-Type: application/vnd.flux' --data-binary @/tmp/query 'http://127.0.0.1:8086/api/v2/query?org=tidegate'"
    gateway.wait_until_succeeds(f"{influx} | grep 22.5", timeout=120)
    points = gateway.succeed(influx)
    assert f",{signed_at}" in points, points

    grafana = "curl --silent --fail --user admin:$(cat /var/lib/tidegate-box/grafana-password) http://127.0.0.1:3000/api"
    gateway.wait_until_succeeds(f"{grafana}/datasources/uid/tidegate/health | grep OK", timeout=120)
    gateway.succeed(f"{grafana}/dashboards/uid/tidegate-devices | grep Readings")

    gateway.wait_until_succeeds("tidegate --json status | jq --exit-status '.upstreams.dashboards.owed == 0'", timeout=60)
    status = json.loads(gateway.succeed("tidegate --json status"))["upstreams"]["dashboards"]
    assert status["delivered"] == 2 and status["dead"] == 0, status
    # For this machine's eyes only.
    outside.fail("curl --silent --max-time 5 http://192.168.1.1:3000")
    outside.fail("curl --silent --max-time 5 http://192.168.1.1:8086/health")
  '';
}
