# What a device may not say is refused with the reason, and never reaches the backend.
{ machines, ... }:
{
  nodes = {
    inherit (machines) gateway outside device;
    attacker =
      { pkgs, ... }:
      {
        imports = [ machines.attacker ];
        environment.systemPackages = [ pkgs.openssl ];
      };
  };
  testScript = machines.prelude + ''
    issue("sensor_001", device)
    issue("sensor_002", device)
    subscribe(device, "sensor_001")
    good = signed(device, "sensor_001", '{"n":"once"}')
    publish(device, "sensor_001", good)
    wait_delivered("once")
    collect(device, "sensor_001")
    cases = {
        "replayed": good,
        "bad_signature": signed(device, "sensor_001", '{"n":"forged"}').replace("forged", "f0rged"),
        "stale_timestamp": signed(device, "sensor_001", '{"n":"stale"}', "--age 3600"),
        "identity_mismatch": signed(device, "sensor_002", '{"n":"foreign"}'),
        "malformed": "{",
    }
    for reason, message in cases.items():
        publish(device, "sensor_001", message)
        (notice,) = collect(device, "sensor_001")
        assert json.loads(notice)["reason"] == reason, (reason, notice)
    assert len(requests()) == 1, requests()

    # A stranger without a certificate, and one with a certificate of its own making.
    attacker.fail("mosquitto_pub -h gateway.local -p 8883 --insecure -t device/sensor_001/data -m x --cafile /etc/ssl/certs/ca-certificates.crt")
    attacker.succeed(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=sensor_001 -keyout k -out c -days 1 2>/dev/null"
    )
    attacker.fail("mosquitto_pub -h gateway.local -p 8883 --insecure --cafile c --cert c --key k -t device/sensor_001/data -m x")
  '';
}
