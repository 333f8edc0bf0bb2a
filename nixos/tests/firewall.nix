# From every side, with nmap.
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
    import re


    def open_ports(machine, target):
        text = machine.succeed(f"nmap -n -Pn -sT -T4 --max-retries 1 --max-rate 15 -p 22,53,80,443,1883,3000,5355,8080,8086,8443,8444,8883 -oG - {target}")
        return [int(port) for port in re.findall(r"(\d+)/open/", text)]


    expected = [
        (attacker, "${machines.gatewayAddress}", [53, 8444, 8883]),
        (attacker, "192.168.1.1", []),
        (attacker, "${machines.outsideAddress}", []),
        (outside, "192.168.1.1", [8443]),
    ]
    for machine, target, ports in expected:
        found = open_ports(machine, target)
        assert found == ports, f"{machine.name} finds {found} on {target}, not {ports}"
    outside.succeed("ip route add 10.93.0.0/24 via 192.168.1.1")
    assert open_ports(outside, "${machines.gatewayAddress}") == []
    assert open_ports(outside, "10.93.0.20") == []

    # A flood from one address is cut off; another device is served all the while.
    issue("sensor_001", device)
    attacker.execute("nmap -n -Pn -sS -T5 --min-rate 500 -p 1-5000 ${machines.gatewayAddress} >/dev/null 2>&1 &")
    publish(device, "sensor_001", signed(device, "sensor_001", '{"n":"in the storm"}'))
    wait_delivered("in the storm")
    gateway.wait_until_succeeds("journalctl -k | grep -E 'tidegate (refused|too fast): '", timeout=30)
  '';
}
