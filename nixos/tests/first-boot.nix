# A new box makes its own keys, says on its screen how to reach it, and can be made new again.
{ machines, ... }:
{
  nodes = {
    inherit (machines) gateway outside;
  };
  testScript = machines.prelude + ''
    issue_text = gateway.wait_until_succeeds("cat /run/issue.d/50-tidegate.issue")
    assert "https://gateway.local:8443/" in issue_text, issue_text
    assert "Setup code" in issue_text, issue_text
    code = issue_text.split("Setup code")[1].split(":")[1].split()[0]
    gateway.fail(f"journalctl | grep -F '{code}'")
    first = gateway.succeed("sha256sum /var/lib/tidegate/pki/root.crt /var/lib/tidegate-box/wifi")
    exposure = gateway.succeed("systemd-analyze security tidegate.service | grep 'Overall exposure'")
    print(exposure)
    gateway.succeed("systemd-analyze security --threshold=15 tidegate.service")

    gateway.succeed("touch /var/lib/tidegate-factory-reset && sync")
    gateway.crash()
    gateway.start()
    gateway.wait_for_unit("tidegate.service")
    gateway.wait_for_open_port(8883)
    second = gateway.succeed("sha256sum /var/lib/tidegate/pki/root.crt /var/lib/tidegate-box/wifi")
    assert not set(first.splitlines()) & set(second.splitlines()), (first, second)
    gateway.fail("test -e /var/lib/tidegate-factory-reset")
  '';
}
