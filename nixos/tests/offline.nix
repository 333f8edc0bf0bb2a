# The backend is away and the gateway loses its power: what was acknowledged is delivered, once, in order.
{ machines, ... }:
{
  nodes = {
    inherit (machines) gateway outside device;
  };
  testScript = machines.prelude + ''
    issue("sensor_001", device)
    outside.systemctl("stop backend.service")
    for n in range(1, 6):
        publish(device, "sensor_001", signed(device, "sensor_001", f'{{"buffered":{n}}}'))
    gateway.crash()
    gateway.start()
    outside.systemctl("start backend.service")
    gateway.wait_for_unit("tidegate.service")
    wait_delivered("buffered", 5)
    bodies = [request["body"] for request in requests()]
    assert bodies == [f'{{"buffered":{n}}}' for n in range(1, 6)], bodies
    gateway.succeed("tidegate status --verify")
  '';
}
