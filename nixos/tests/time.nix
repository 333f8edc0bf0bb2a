# The box learns the time and hands it on; until it knows, nothing is accepted, and the reason says so.
{ machines, ... }:
{
  nodes = {
    inherit (machines) gateway outside device;
  };
  testScript = machines.prelude + ''
    gateway.wait_until_succeeds("chronyc -n tracking | grep 'Leap status     : Normal'", timeout=120)
    answer = device.succeed("chronyd -Q -t 30 'server ${machines.gatewayAddress} iburst' 2>&1")
    assert "System clock wrong by" in answer, answer

    # A box that wakes up in the past steps forward as soon as it hears better.
    gateway.succeed("systemctl stop chronyd.service && date --set '2020-01-01' && systemctl start chronyd.service")
    gateway.wait_until_succeeds("test $(date +%Y) -gt 2020", timeout=120)
  '';
}
