# A reading goes from a device to the backend, and the backend's reply to the device.
{ machines, ... }:
{
  nodes = {
    inherit (machines) gateway outside device;
  };
  testScript = machines.prelude + ''
    issue("sensor_001", device)
    subscribe(device, "sensor_001")
    publish(device, "sensor_001", signed(device, "sensor_001", '{"temperature":22.5}'))
    wait_delivered("temperature")
    (request,) = requests()
    assert request["path"] == "/device/sensor_001/data", request
    assert request["body"] == '{"temperature":22.5}', request
    assert request["headers"]["authorization"] == "Bearer the-backend-knows-this", request
    assert request["headers"]["idempotency-key"].startswith("sensor_001:"), request
    assert collect(device, "sensor_001") == ['{"thanks":true}']
  '';
}
