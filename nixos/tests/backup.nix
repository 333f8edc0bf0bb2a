# A backup on a stick brings a fresh box to where the old one was; without the key it is noise.
{
  machines,
  ...
}:
let
  stick =
    { pkgs, lib, ... }:
    {
      imports = [ machines.gateway ];
      virtualisation.emptyDiskImages = [ 512 ];
      environment.systemPackages = [ pkgs.age ];
      services.tidegate.appliance.backup = {
        enable = true;
        usbLabel = lib.mkForce "TIDEGATE-BACKUP";
        # The test's own key, whose private half is in the test below.
        recipients = lib.mkForce [ "age1cteet25ay84z7phtu0g06dv6ke4znt9uqy5wujmj3sqdwxvd9c5sk0h96h" ];
      };
    };
in
{
  nodes = {
    inherit (machines) outside device;
    gateway = stick;
    fresh =
      { lib, ... }:
      {
        imports = [ stick ];
        networking.hostName = lib.mkForce "fresh";
        virtualisation.vlans = lib.mkForce [
          3
          4
        ];
      };
  };
  testScript = machines.prelude + ''
    key = "AGE-SECRET-KEY-1KVDU6J7JHDPV53ZTRLQYFZJVY2CURH8NH65WWJG0RSYE27LVG48Q86M3RP"
    issue("sensor_001", device)
    outside.systemctl("stop backend.service")
    for n in range(3):
        publish(device, "sensor_001", signed(device, "sensor_001", f'{{"owed":{n}}}'))
    gateway.succeed("mkfs.ext4 -q -L TIDEGATE-BACKUP /dev/vdb && udevadm settle")
    gateway.succeed("systemctl start tidegate-backup.service")
    name = gateway.succeed("ls /media/backup | grep tar.age").strip()
    gateway.fail("ls /var/lib/tidegate-backup | grep -q .")
    gateway.fail(f"grep -q 'PRIVATE KEY' /media/backup/{name}")
    text = gateway.succeed(f"base64 -w0 /media/backup/{name}").strip()

    fresh.wait_for_unit("tidegate.service")
    fresh.succeed("systemctl stop tidegate.service && rm -rf /var/lib/tidegate/*")
    with open("backup.b64", "w") as file:
        file.write(text)
    fresh.copy_from_host("backup.b64", "/tmp/backup.b64")
    fresh.succeed("base64 -d /tmp/backup.b64 > /tmp/backup.age")
    fresh.succeed(f"echo {key} > /tmp/key && age -d -i /tmp/key -o /var/lib/tidegate/state.tar /tmp/backup.age")
    fresh.succeed("install -d -o tidegate -m 0700 /run/restore && install -o tidegate -m 0600 /var/lib/tidegate/state.tar /run/restore/ && rm /var/lib/tidegate/state.tar")
    fresh.succeed("tidegate restore /run/restore/state.tar && systemctl start tidegate.service")
    owed = json.loads(fresh.succeed("tidegate --json status"))["upstreams"]["backend"]["owed"]
    assert owed == 3, owed
    same = [machine.succeed("sha256sum < /var/lib/tidegate/pki/root.crt") for machine in [gateway, fresh]]
    assert same[0] == same[1], same
  '';
}
