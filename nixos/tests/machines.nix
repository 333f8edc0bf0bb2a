# The machines of the VM tests. Network 1 is management (gateway eth1, outside), network 2 is the
# devices' (gateway eth2, device, attacker); eth0 of a test machine is the driver's.
{
  lib,
  module,
  pkgs,
}:
let
  gatewayAddress = "10.93.0.1";
  outsideAddress = "192.168.1.2";

  # A backend that keeps every request as one line of JSON and answers with thanks.
  backend = pkgs.writers.writePython3Bin "backend" { flakeIgnore = [ "E501" ]; } ''
    import http.server
    import json
    import os


    class Backend(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            with open("/var/lib/backend/requests", "a") as file:
                record = {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": body}
                file.write(json.dumps(record) + "\n")
            reply = b'{"thanks":true}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)


    os.makedirs("/var/lib/backend", exist_ok=True)
    http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Backend).serve_forever()
  '';

  # Signs a message as protocol version 2 says, from its description alone: nothing of ours is used.
  sign = pkgs.writers.writePython3Bin "sign" { flakeIgnore = [ "E501" ]; } ''
    import argparse
    import hashlib
    import hmac
    import json
    import time
    import uuid

    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("secret_file")
    parser.add_argument("payload")
    parser.add_argument("--age", type=int, default=0)
    parser.add_argument("--id", default=None)
    given = parser.parse_args()
    secret = open(given.secret_file).read().strip().encode()
    payload = json.dumps(json.loads(given.payload), separators=(",", ":"))
    timestamp = int(time.time()) - given.age
    message_id = given.id or str(uuid.uuid4())
    text = f"tidegate-v2\nup\n{given.device}\n{timestamp}\n{message_id}\n{payload}"
    signature = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
    print(f'{{"v":2,"device_id":"{given.device}","timestamp":{timestamp},"message_id":"{message_id}","payload":{payload},"signature":"{signature}"}}')
  '';

  # mosquitto's clients with a bundle's certificate.
  client =
    program:
    pkgs.writeShellApplication {
      name = "device-${program}";
      runtimeInputs = [ pkgs.mosquitto ];
      text = ''
        id=$1
        shift
        bundle=/var/lib/bundles/$id
        exec mosquitto_${program} -h gateway.local -p 8883 --cafile "$bundle/ca.crt" \
          --cert "$bundle/device.crt" --key "$bundle/device.key" -q 1 "$@"
      '';
    };

  onDeviceNetwork = last: {
    virtualisation.vlans = [ 2 ];
    networking = {
      useDHCP = false;
      firewall.enable = false;
      interfaces.eth1.ipv4.addresses = lib.mkForce [
        {
          address = "10.93.0.${toString last}";
          prefixLength = 24;
        }
      ];
      # A way out through the gateway, which it must not be.
      defaultGateway = gatewayAddress;
      hosts.${gatewayAddress} = [ "gateway.local" ];
    };
    environment.systemPackages = [
      pkgs.chrony
      pkgs.curl
      pkgs.mosquitto
      pkgs.nmap
      sign
      (client "pub")
      (client "sub")
    ];
  };
in
{
  inherit gatewayAddress outsideAddress;

  gateway =
    { lib, ... }:
    {
      imports = [
        module
        ./box.nix
      ];
      virtualisation = {
        vlans = [
          1
          2
        ];
        memorySize = 1536;
      };
      networking.interfaces = lib.mkForce { };
      services.tidegate = {
        appliance = {
          network.management.interface = lib.mkForce "eth1";
          network.devices.interface = lib.mkForce "eth2";
          time.servers = lib.mkForce [ outsideAddress ];
          backup.enable = lib.mkDefault false;
        };
        upstreams.backend.url = lib.mkForce "http://${outsideAddress}:8080";
      };
      systemd.network.networks."30-management" = {
        networkConfig.DHCP = lib.mkForce "no";
        address = [ "192.168.1.1/24" ];
      };
      systemd.tmpfiles.rules = [
        "f+ /var/lib/secrets/backend-token 0600 root root - the-backend-knows-this"
      ];
    };

  outside = {
    virtualisation.vlans = [ 1 ];
    networking = {
      useDHCP = false;
      firewall.enable = false;
      interfaces.eth1.ipv4.addresses = lib.mkForce [
        {
          address = outsideAddress;
          prefixLength = 24;
        }
      ];
      hosts."192.168.1.1" = [ "gateway.local" ];
    };
    environment.systemPackages = [
      pkgs.curl
      pkgs.jq
      pkgs.nmap
    ];
    systemd.services.backend = {
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = lib.getExe backend;
    };
    services.chrony = {
      enable = true;
      servers = [ ];
      extraConfig = ''
        local stratum 2
        allow
      '';
    };
  };

  device = onDeviceNetwork 20;
  attacker = onDeviceNetwork 66;

  # What every story begins with, in the test driver's Python.
  prelude = ''
    import json


    def issue(device_id, machine):
        """Issues a bundle on the gateway and carries it to the device."""
        folder = f"/var/lib/tidegate/bundle-{device_id}"
        gateway.succeed(f"tidegate pki issue device {device_id} --out {folder}")
        machine.succeed(f"mkdir -p /var/lib/bundles/{device_id}")
        for name in ["ca.crt", "device.crt", "device.key", "secret"]:
            text = gateway.succeed(f"base64 -w0 {folder}/{name}")
            machine.succeed(f"echo {text.strip()} | base64 -d > /var/lib/bundles/{device_id}/{name}")


    def signed(machine, device_id, payload, options=""):
        return machine.succeed(f"sign {device_id} /var/lib/bundles/{device_id}/secret '{payload}' {options}").strip()


    def publish(machine, device_id, message):
        machine.succeed(f"device-pub {device_id} -t device/{device_id}/data -m '{message}'")


    def subscribe(machine, device_id):
        machine.succeed(f"device-sub {device_id} -c -i session -t device/{device_id}/response -t device/{device_id}/command -E")


    def collect(machine, device_id, count=1):
        return machine.succeed(f"device-sub {device_id} -c -i session -t device/{device_id}/response -t device/{device_id}/command -C {count} -W 60").splitlines()


    def requests():
        text = outside.succeed("cat /var/lib/backend/requests 2>/dev/null || true")
        return [json.loads(line) for line in text.splitlines()]


    def offer_release(machine, content):
        """Signs, publishes and rolls out a release with this content; its image's SHA-256."""
        gateway.succeed(f"printf %s '{content}' > /var/lib/tidegate/app.bin")
        gateway.copy_from_host("${./release.key}", "/var/lib/tidegate/release.key")
        gateway.succeed("chmod 0644 /var/lib/tidegate/release.key")
        gateway.succeed("tidegate firmware sign /var/lib/tidegate/app.bin --key /var/lib/tidegate/release.key --product dashboard --chip virt --release 1.1.0")
        gateway.succeed("tidegate firmware publish /var/lib/tidegate/app.bin")
        assert updates(machine, "sensor_001") == "204", "offered before it is rolled out"
        gateway.succeed("tidegate firmware rollout dashboard/virt/1.1.0 --percent 100")
        return gateway.succeed("sha256sum < /var/lib/tidegate/app.bin").split()[0]


    def as_device(device_id):
        """curl with a device's certificate."""
        bundle = f"/var/lib/bundles/{device_id}"
        return f"curl --silent --show-error --cacert {bundle}/ca.crt --cert {bundle}/device.crt --key {bundle}/device.key"


    asks_for_update = "'https://gateway.local:8444/v1/update?product=dashboard&chip=virt&version=1.0.0&security_version=0'"


    def updates(machine, device_id):
        """The status of the answer to a device that asks for an update."""
        return machine.succeed(f"{as_device(device_id)} --output /dev/null --write-out '%{{http_code}}' {asks_for_update}")


    def wait_delivered(word, count=1):
        outside.wait_until_succeeds(f"test $(grep -c '{word}' /var/lib/backend/requests) -ge {count}", timeout=90)


    def up():
        start_all()
        outside.wait_for_unit("backend.service")
        gateway.wait_for_unit("tidegate.service")
        gateway.wait_for_unit("nginx.service")
        gateway.wait_for_open_port(8883)
        gateway.wait_until_succeeds("tidegate --json status | grep -E '\"clock_trusted\": ?true'", timeout=180)


    up()
  '';
}
