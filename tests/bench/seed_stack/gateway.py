"""The gateway most people would write: mosquitto in front, this script behind it, a backend to POST to.

It does what Tidegate does, in its plainest form: each message from device/+/data is checked (time,
replay, identity, signature) with the device's secret from SQLite, its payload POSTed to the backend on a
kept connection, and the answer published to device/<id>/response. It keeps nothing on disk.

usage: gateway.py PORT DATABASE BACKEND
"""

import hashlib
import hmac
import json
import sqlite3
import sys
import time
from collections import defaultdict, deque

import paho.mqtt.client as mqtt
import requests

TOLERANCE_S = 300
REMEMBERED = 1000


class Seen:
    """The last message ids of a device, in the order they came and by value."""

    def __init__(self):
        self.order = deque()
        self.ids = set()

    def add(self, message_id):
        if message_id in self.ids:
            return False
        if len(self.order) == REMEMBERED:
            self.ids.remove(self.order.popleft())
        self.order.append(message_id)
        self.ids.add(message_id)
        return True


class Gateway:
    def __init__(self, database, backend):
        self.database = sqlite3.connect(database, check_same_thread=False)
        self.backend = backend
        self.session = requests.Session()
        self.seen = defaultdict(Seen)

    def on_connect(self, client, userdata, flags, reason, properties):
        client.subscribe("device/+/data", qos=1)

    def on_subscribe(self, client, userdata, mid, reasons, properties):
        print("ready", flush=True)

    def on_message(self, client, userdata, message):
        device_id = message.topic.split("/")[1]
        try:
            envelope = json.loads(message.payload)
            why = self.refusal(device_id, envelope)
        except (ValueError, KeyError, TypeError) as error:
            why = f"malformed: {error}"
        if why:
            print(f"rejected message from {device_id}: {why}", flush=True)
            return
        answer = self.session.post(
            f"{self.backend}/device/{device_id}/data",
            data=compact(envelope["payload"]),
            headers={"Content-Type": "application/json"},
            timeout=30,
        )
        if answer.ok and answer.content:
            client.publish(f"device/{device_id}/response", answer.content, qos=1)

    def refusal(self, device_id, envelope):
        """Why a message is not forwarded, or None."""
        if envelope["device_id"] != device_id:
            return "identity mismatch"
        if abs(time.time() - envelope["timestamp"]) > TOLERANCE_S:
            return "timestamp out of range"
        row = self.database.execute(
            "SELECT shared_secret FROM devices WHERE device_id = ?", (device_id,)
        ).fetchone()
        if row is None:
            return "unknown device"
        text = f"{device_id}{envelope['timestamp']}{envelope['message_id']}".encode()
        signature = hmac.new(
            row[0].encode(), text + compact(envelope["payload"]), hashlib.sha256
        ).hexdigest()
        if not hmac.compare_digest(signature, envelope["signature"]):
            return "invalid signature"
        if not self.seen[device_id].add(envelope["message_id"]):
            return "replayed"
        return None


def compact(payload):
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()


def main():
    port, database, backend = sys.argv[1:]
    gateway = Gateway(database, backend)
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id="gateway", protocol=mqtt.MQTTv311
    )
    client.on_connect = gateway.on_connect
    client.on_subscribe = gateway.on_subscribe
    client.on_message = gateway.on_message
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", int(port))
    client.loop_forever()


main()
